package migrations

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Export writes those migrations of parts (none: All) into a folder that it doesn't have yet, in a tool's format, and returns
// the names of the files that it wrote. Their versions are the next ones there, in the folder's own manner: numbers or
// timestamps. What it wrote before is known by a line in it, whatever the file is called by now; it changes and deletes
// nothing.
func Export(dir string, format Format, dialect string, parts ...Part) (written []string, err error) {
	return export(dir, format, dialect, time.Now(), parts)
}

func export(dir string, format Format, dialect string, now time.Time, parts []Part) (written []string, err error) {
	if err := format.check(dialect); err != nil {
		return nil, err
	}
	all, err := load(dialect, parts)
	if err != nil {
		return nil, err
	}
	there, err := survey(dir)
	if err != nil {
		return nil, err
	}
	last, width := there.last, there.width
	for _, m := range all {
		if there.markers[m.marker] {
			continue
		}
		last++
		if stamp, _ := strconv.ParseInt(now.UTC().Format("20060102150405"), 10, 64); format != Tern && (there.last == 0 || there.timestamps()) && last < stamp {
			last = stamp
		}
		files := m.in(format, number(format, last, width))
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if err := write(filepath.Join(dir, name), files[name]); err != nil {
				return written, err
			}
			written = append(written, name)
		}
	}
	return written, nil
}

// write makes a file, which must not be there.
func write(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// contents is what a folder of migrations has already.
type contents struct {
	markers map[string]bool // of the migrations of ours
	last    int64           // the highest version
	width   int             // in digits, where numbers have leading zeros
}

// timestamps reports whether versions are times, such as 20261128100000.
func (c contents) timestamps() bool { return c.last >= 1e12 }

var versioned = regexp.MustCompile(`^(\d+)_.*\.sql$`)

func survey(dir string) (c contents, err error) {
	c.markers = map[string]bool{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return c, fmt.Errorf("the folder for migrations: %w", err)
	}
	for _, e := range entries {
		parts := versioned.FindStringSubmatch(e.Name())
		if parts == nil || e.IsDir() {
			continue
		}
		version, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil {
			return c, fmt.Errorf("%s: its version: %w", e.Name(), err)
		}
		if version > c.last {
			c.last, c.width = version, len(parts[1])
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return c, err
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "-- endstate: ") {
				c.markers[strings.TrimSpace(line)] = true
			}
		}
	}
	return c, nil
}
