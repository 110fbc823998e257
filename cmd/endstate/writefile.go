package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
)

// writeFile writes content to a path. A regular file is replaced as a whole, and keeps its mode and its owner; a new one gets
// what the umask leaves. Whatever else is there (a device, a pipe, a symbolic link, a file with several names) is written
// through and stays what it is.
func (a *app) writeFile(path string, content []byte) error {
	link, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return replaceFile(path, content, nil)
	case err != nil:
		return unnamed(err)
	}
	there, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a link to nothing is one to a file to be made
		return unnamed(err)
	}
	if err == nil {
		for _, out := range []any{a.stdout, a.stderr} { // as /dev/stdout, which opened once more would begin at its beginning
			if f, ok := out.(*os.File); ok {
				if own, err := f.Stat(); err == nil && os.SameFile(own, there) {
					_, err := f.Write(content)
					return unnamed(err)
				}
			}
		}
	}
	if !link.Mode().IsRegular() || names(link) > 1 {
		return overwriteFile(path, content)
	}
	// Who may not write to a file may not replace it, either, though its folder would allow it.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return unnamed(err)
	}
	if err := f.Close(); err != nil {
		return unnamed(err)
	}
	err = replaceFile(path, content, link)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.EBUSY) {
		return overwriteFile(path, content) // no file may be made beside it, or it is a mount point
	}
	return err
}

// replaceFile writes a file beside path that then takes its place. Old is the one that was there, if any.
func replaceFile(path string, content []byte, old fs.FileInfo) error {
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf(".endstate-%016x", rand.Uint64())) // CreateTemp has no regard for the umask
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return unnamed(err)
	}
	err = func() error {
		if old != nil {
			if err := keepOwner(f, old); err != nil {
				return err
			}
			if err := f.Chmod(old.Mode()); err != nil {
				return err
			}
		}
		if _, err := f.Write(content); err != nil {
			return err
		}
		return f.Sync()
	}()
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(unnamed(err), unnamed(os.Remove(temp)))
	}
	return nil
}

// overwriteFile writes to what is there.
func overwriteFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o666)
	if err != nil {
		return unnamed(err)
	}
	_, err = f.Write(content)
	return unnamed(errors.Join(err, f.Close()))
}

// unnamed leaves out what was done to which file, since the caller says it, and the name may be that of a temporary one.
func unnamed(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	if link, ok := errors.AsType[*os.LinkError](err); ok {
		return link.Err
	}
	return err
}
