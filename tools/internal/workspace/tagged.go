package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
)

// Module is a module that users install.
type Module struct {
	Path    string
	Version string // the version to come
	Dir     string // as go.work writes it
}

// Tag is the git tag of a version of the module: "v0.1.0" for the root, "outbox/natsjs/v0.1.0" for a nested one.
func (m Module) Tag(version string) string { return filepath.ToSlash(filepath.Join(m.Dir, version)) }

// Tagged returns the modules that users install, in the order in which they are tagged: those that go.work replaces at the
// version to come, each after those that it requires. The current folder is to be go.work's.
func Tagged(ctx context.Context) ([]Module, error) {
	out, err := Output(exec.CommandContext(ctx, "go", "work", "edit", "-json"))
	if err != nil {
		return nil, fmt.Errorf("read go.work, which is to be in the current folder: %w", err)
	}
	var work struct {
		Replace []struct {
			Old struct{ Path, Version string }
			New struct{ Path string }
		}
	}
	if err := json.Unmarshal([]byte(out), &work); err != nil {
		return nil, fmt.Errorf("read go.work: %w", err)
	}
	modules, requires := map[string]Module{}, map[string][]string{}
	for _, r := range work.Replace {
		m := Module{Path: r.Old.Path, Version: r.Old.Version, Dir: r.New.Path}
		file, err := ReadMod(m.Dir)
		if err != nil {
			return nil, err
		}
		modules[m.Path] = m
		for _, required := range file.Require {
			requires[m.Path] = append(requires[m.Path], required.Mod.Path)
		}
	}
	var ordered []Module
	seen := map[string]bool{}
	var add func(path string)
	add = func(path string) {
		m, ours := modules[path]
		if !ours || seen[path] {
			return
		}
		seen[path] = true
		for _, required := range requires[path] {
			add(required)
		}
		ordered = append(ordered, m)
	}
	for _, r := range work.Replace {
		add(r.Old.Path)
	}
	return ordered, nil
}

// ReadMod reads the go.mod in a folder.
func ReadMod(dir string) (*modfile.File, error) {
	name := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return modfile.Parse(name, data, nil)
}

// Alone writes the go.mod and go.sum of a module to the folder into, with its requirements of ours replaced by their
// folders, and returns the path of that go.mod: with GOWORK=off and -modfile, go sees the module as those do who install it,
// also before its requirements are published.
func Alone(dir, into string, tagged []Module) (string, error) {
	file, err := ReadMod(dir)
	if err != nil {
		return "", err
	}
	for _, m := range tagged {
		folder, err := filepath.Abs(m.Dir)
		if err != nil {
			return "", err
		}
		if err := file.AddReplace(m.Path, m.Version, folder, ""); err != nil {
			return "", err
		}
	}
	data, err := file.Format()
	if err != nil {
		return "", err
	}
	alone := filepath.Join(into, "go.mod")
	if err := os.WriteFile(alone, data, 0o644); err != nil {
		return "", err
	}
	return alone, copySums(dir, into)
}

// copySums copies the go.sum of a folder to another, if there is one.
func copySums(from, into string) error {
	sums, err := os.ReadFile(filepath.Join(from, "go.sum"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(into, "go.sum"), sums, 0o644)
}

// Tidy runs go mod tidy on a module as if its requirements of ours were published, which by itself go mod tidy can't before
// they are.
func Tidy(ctx context.Context, dir string, tagged []Module) (err error) {
	into, err := os.MkdirTemp("", "endstate-tidy")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(into)) }()
	alone, err := Alone(dir, into, tagged)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "mod", "tidy", "-modfile="+alone)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off")
	if _, err := Output(cmd); err != nil {
		return err
	}
	file, err := ReadMod(into)
	if err != nil {
		return err
	}
	for _, m := range tagged {
		if err := file.DropReplace(m.Path, m.Version); err != nil {
			return err
		}
	}
	file.Cleanup()
	data, err := file.Format()
	if err != nil {
		return err
	}
	data = []byte(strings.TrimRight(string(data), "\n") + "\n")
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), data, 0o644); err != nil {
		return err
	}
	return copySums(into, dir)
}
