package migrations

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// folder is a file system of one folder in memory: a file's text by its name.
type folder map[string]string

var (
	_ fs.ReadDirFS  = folder{}
	_ fs.ReadFileFS = folder{}
)

// Open implements fs.FS.
func (f folder) Open(name string) (fs.File, error) {
	if name == "." {
		entries, err := f.ReadDir(name)
		return &opened{entry: entry{name: ".", dir: true}, entries: entries}, err
	}
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return &opened{entry: entry{name: name, size: len(text)}, Reader: strings.NewReader(text)}, nil
}

// ReadFile implements fs.ReadFileFS.
func (f folder) ReadFile(name string) ([]byte, error) {
	text, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(text), nil
}

// ReadDir implements fs.ReadDirFS.
func (f folder) ReadDir(name string) ([]fs.DirEntry, error) {
	if name != "." {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	var entries []fs.DirEntry
	for _, name := range slices.Sorted(maps.Keys(f)) {
		entries = append(entries, fs.FileInfoToDirEntry(entry{name: name, size: len(f[name])}))
	}
	return entries, nil
}

// opened is the folder, or a file of it.
type opened struct {
	*strings.Reader
	entry   entry
	entries []fs.DirEntry
}

func (o *opened) Stat() (fs.FileInfo, error) { return o.entry, nil }
func (o *opened) Close() error               { return nil }

// Read implements fs.File; a folder has nothing to read.
func (o *opened) Read(b []byte) (int, error) {
	if o.Reader == nil {
		return 0, &fs.PathError{Op: "read", Path: o.entry.name, Err: fs.ErrInvalid}
	}
	return o.Reader.Read(b)
}

// ReadDir implements fs.ReadDirFile.
func (o *opened) ReadDir(n int) ([]fs.DirEntry, error) {
	if n > 0 && len(o.entries) == 0 {
		return nil, io.EOF
	}
	if n <= 0 || n > len(o.entries) {
		n = len(o.entries)
	}
	some := o.entries[:n]
	o.entries = o.entries[n:]
	return some, nil
}

// entry is what there is to know of a file.
type entry struct {
	name string
	size int
	dir  bool
}

func (e entry) Name() string       { return e.name }
func (e entry) Size() int64        { return int64(e.size) }
func (e entry) ModTime() time.Time { return time.Time{} }
func (e entry) IsDir() bool        { return e.dir }
func (e entry) Sys() any           { return nil }

// Mode implements fs.FileInfo.
func (e entry) Mode() fs.FileMode {
	if e.dir {
		return fs.ModeDir | 0o555
	}
	return 0o444
}
