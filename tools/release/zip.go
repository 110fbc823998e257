package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// What a module's zip may hold at most. Everybody who requires the module downloads it.
const (
	maxZip  = 2 << 20
	maxFile = 100 << 10
)

// file is a file of a module, as the zip names it and where it is.
type file struct{ name, at string }

func (f file) Path() string                 { return f.name }
func (f file) Lstat() (os.FileInfo, error)  { return os.Lstat(f.at) }
func (f file) Open() (io.ReadCloser, error) { return os.Open(f.at) }

// files returns what a module's zip is made of: what git has, or would add, and the root's licence, as the go command does
// it. The zip leaves out nested modules by itself.
func files(ctx context.Context, dir string) ([]modzip.File, error) {
	// In a container, git may find that somebody else owns the folder, and refuse.
	list := exec.CommandContext(ctx, "git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
	list.Dir = dir
	out, err := workspace.Output(list)
	if err != nil {
		return nil, err
	}
	var files []modzip.File
	licensed := false
	for name := range strings.SplitSeq(strings.Trim(out, "\x00"), "\x00") {
		at := filepath.Join(dir, name)
		if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
			continue // removed, and not yet committed
		}
		files = append(files, file{name, at})
		licensed = licensed || name == "LICENSE"
	}
	if !licensed {
		files = append(files, file{"LICENSE", "LICENSE"})
	}
	return files, nil
}

// checkZips finds files that nobody who installs a module needs.
func checkZips(ctx context.Context, out io.Writer, tagged []workspace.Module) (findings []string, err error) {
	for _, m := range tagged {
		all, err := files(ctx, m.Dir)
		if err != nil {
			return nil, err
		}
		checked, err := modzip.CheckFiles(all)
		if err := cmp.Or(err, checked.Err()); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Path, err)
		}
		for _, name := range checked.Valid {
			info, err := os.Stat(filepath.Join(m.Dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // the root's licence
			} else if err != nil {
				return nil, err
			}
			switch base := path.Base(name); {
			case info.Size() > maxFile:
				findings = append(findings, fmt.Sprintf("%s: %s has %d bytes, more than %d", m.Path, name, info.Size(), maxFile))
			case strings.HasPrefix(base, "bench") && (path.Ext(base) == ".json" || path.Ext(base) == ".svg"):
				findings = append(findings, fmt.Sprintf("%s: %s is a benchmark's output, and belongs in a module that is never tagged", m.Path, name))
			}
		}
		var size counter
		if err := modzip.Create(&size, module.Version{Path: m.Path, Version: m.Version}, all); err != nil {
			return nil, err
		}
		fmt.Fprintf(out, "  %s: %d files, %d KiB\n", m.Path, len(checked.Valid), size>>10)
		if size > maxZip {
			findings = append(findings, fmt.Sprintf("%s: the zip has %d bytes, more than %d", m.Path, size, maxZip))
		}
	}
	return findings, nil
}

// counter counts what is written.
type counter int

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
