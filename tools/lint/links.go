package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

var markdownLink = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)]*)?\)`)

// brokenLinks returns a line for each link in a document of the tree to a file that isn't there.
func brokenLinks(root string) (lines []string, err error) {
	err = fs.WalkDir(os.DirFS(root), ".", func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (entry.Name() == "testdata" || entry.Name() == ".git"):
			return fs.SkipDir
		case entry.IsDir() || path.Ext(name) != ".md":
			return nil
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return err
		}
		for _, link := range markdownLink.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(link[1], ":") {
				continue // elsewhere
			}
			if _, err := os.Stat(filepath.Join(root, path.Dir(name), link[1])); errors.Is(err, fs.ErrNotExist) {
				lines = append(lines, fmt.Sprintf("%s links to %s, which isn't there", name, link[1]))
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	slices.Sort(lines)
	return lines, err
}
