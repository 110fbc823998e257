package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/mod/module"
	modzip "golang.org/x/mod/zip"

	"github.com/endstate-go/endstate/tools/internal/workspace"
)

// proxy is a folder from which the go command takes modules by GOPROXY=file://.
type proxy string

// publish puts the module, as it is in the tree, into the proxy.
func (p proxy) publish(ctx context.Context, m workspace.Module, version string) error {
	files, err := files(ctx, m.Dir)
	if err != nil {
		return err
	}
	var zip bytes.Buffer
	if err := modzip.Create(&zip, module.Version{Path: m.Path, Version: version}, files); err != nil {
		return fmt.Errorf("zip %s: %w", m.Path, err)
	}
	mod, err := os.ReadFile(filepath.Join(m.Dir, "go.mod"))
	if err != nil {
		return err
	}
	return p.add(m.Path, version, mod, zip.Bytes())
}

// publishTagged puts the module, as it was when it was tagged, into the proxy.
func (p proxy) publishTagged(ctx context.Context, m workspace.Module, version string) error {
	root, err := filepath.Abs(".")
	if err != nil {
		return err
	}
	var zip bytes.Buffer
	err = modzip.CreateFromVCS(&zip, module.Version{Path: m.Path, Version: version}, root, m.Tag(version), filepath.ToSlash(filepath.Clean(m.Dir)))
	if err != nil {
		return fmt.Errorf("zip %s: %w", m.Tag(version), err)
	}
	mod, err := git(ctx, "show", m.Tag(version)+":"+filepath.ToSlash(filepath.Join(m.Dir, "go.mod")))
	if err != nil {
		return err
	}
	return p.add(m.Path, version, []byte(mod+"\n"), zip.Bytes())
}

func (p proxy) add(path, version string, mod, zip []byte) error {
	escaped, err := module.EscapePath(path)
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct{ Version string }{version})
	if err != nil {
		return err
	}
	dir := filepath.Join(string(p), escaped, "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	list, err := os.OpenFile(filepath.Join(dir, "list"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(list, version)
	return errors.Join(err, list.Close(),
		os.WriteFile(filepath.Join(dir, version+".info"), info, 0o644),
		os.WriteFile(filepath.Join(dir, version+".mod"), mod, 0o644),
		os.WriteFile(filepath.Join(dir, version+".zip"), zip, 0o644))
}
