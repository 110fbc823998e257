package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/golangci/misspell"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// unsaid is what we don't say, with what we say instead.
var unsaid = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?i)\bmend(s|ed|ing)?\b`), "fix, repair"},
	{regexp.MustCompile(`(?i)\bfor ever\b`), "forever"},
	{regexp.MustCompile(`(?i)\b(tells|telling|told) whether\b`), "report whether"},
	{regexp.MustCompile(`(?i)\b(tell|tells|telling|told) of\b`), "report, describe, mention"},
	{regexp.MustCompile(`(?i)\bcomes? to (itself|themselves)\b`), "recover"},
}

// brokenWords returns a line for each misspelled word, and each phrase that we don't say, in the files that git has or would
// add.
func brokenWords(ctx context.Context, root string) (lines []string, err error) {
	list := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	list.Dir = root
	out, err := workspace.Output(list)
	if err != nil {
		return nil, err
	}
	spelling := misspell.New()
	for name := range strings.SplitSeq(strings.Trim(out, "\x00"), "\x00") {
		if !slices.Contains([]string{".go", ".md", ".sql", ".lua", ".sh", ".yml", ".html", ""}, path.Ext(name)) || strings.HasPrefix(name, "tools/lint/words") {
			continue
		}
		text, err := os.ReadFile(path.Join(root, name))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		} else if err != nil {
			return nil, err
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			_, found := spelling.Replace(line)
			for _, f := range found {
				lines = append(lines, fmt.Sprintf("%s:%d: %q is spelled %q", name, number, f.Original, f.Corrected))
			}
			for _, u := range unsaid {
				if said := u.pattern.FindString(line); said != "" {
					lines = append(lines, fmt.Sprintf("%s:%d: %q: say %s", name, number, said, u.instead))
				}
			}
		}
	}
	return lines, nil
}
