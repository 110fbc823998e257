package migrations

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// ErrConfig is returned for a format, a dialect or parts that don't make sense. It arrives wrapped.
var ErrConfig = errors.New("migrations: invalid configuration")

// Part is a part of the library that has tables: a guard.Ledger, an outbox.Writer (with its relay's) or an
// inbox.TableConfig, each with the table's name and schema that it says.
type Part interface {
	// Migrations returns its files in goose's format, for dialect "postgres" or "sqlite".
	Migrations(dialect string) (fs.FS, error)
	// Migrate applies those of which the database lacks something, in tx.
	Migrate(ctx context.Context, tx endstate.Tx) error
}

// All are the parts of the library, with tables of the default names. It is what functions of this package work on that are
// given no parts.
func All() []Part { return []Part{guard.Ledger{}, outbox.Writer{}, inbox.TableConfig{}} }

// Format is how a tool wants its files.
type Format string

// The tools whose formats there are.
const (
	Goose         Format = "goose"          // 20261128100000_name.sql, both ways in one file
	GolangMigrate Format = "golang-migrate" // 20261128100000_name.up.sql and .down.sql
	Tern          Format = "tern"           // 001_name.sql, both ways in one file; versions have no gaps, PostgreSQL only
)

func (f Format) check(dialect string) error {
	switch {
	case f != Goose && f != GolangMigrate && f != Tern:
		return fmt.Errorf("%w: there is no format %q; there are goose, golang-migrate and tern", ErrConfig, f)
	case f == Tern && dialect != "postgres":
		return fmt.Errorf("%w: tern is for PostgreSQL", ErrConfig)
	}
	return nil
}

// migration is a file of a part, and the marker by which it is known whatever its name is in a folder of the user's.
type migration struct {
	migrate.File
	title  string // the file's name without its version
	marker string
}

// load reads the migrations of all parts, in the order of their versions.
func load(dialect string, parts []Part) ([]migration, error) {
	if len(parts) == 0 {
		parts = All()
	}
	var all []migration
	for i, part := range parts {
		fsys, err := part.Migrations(dialect)
		if err != nil {
			return nil, err
		}
		files, err := migrate.Load(fsys)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			_, title, _ := strings.Cut(strings.TrimSuffix(f.Name, ".sql"), "_")
			// What a file does last, when it is taken back, is to forget its version: that names the table, too.
			m := migration{f, title, fmt.Sprintf("-- endstate: %d %x", f.Version, sum(f.Down[len(f.Down)-1]))}
			for _, other := range all {
				if other.marker == m.marker {
					return nil, fmt.Errorf("%w: parts %d and an earlier one have the same tables", ErrConfig, i+1)
				}
			}
			all = append(all, m)
		}
	}
	slices.SortStableFunc(all, func(a, b migration) int {
		if a.Version != b.Version {
			return int(min(1, max(-1, a.Version-b.Version)))
		}
		return 0
	})
	return all, nil
}

// FS returns the migrations of parts (none: All) as one folder in a tool's format, for dialect "postgres" or "sqlite".
// Versions are timestamps, for tern numbers from 1. Two parts of one kind, such as two outboxes, get timestamps a second
// apart.
func FS(format Format, dialect string, parts ...Part) (fs.FS, error) {
	if err := format.check(dialect); err != nil {
		return nil, err
	}
	all, err := load(dialect, parts)
	if err != nil {
		return nil, err
	}
	folder := folder{}
	last := int64(0)
	for i, m := range all {
		version := max(m.Version, last+1)
		if format == Tern {
			version = int64(i + 1)
		}
		last = version
		for name, text := range m.in(format, number(format, version, 0)) {
			folder[name] = text
		}
	}
	return folder, nil
}

// SQL returns what the migrations of parts (none: All) do, as a script for dialect "postgres" or "sqlite". It can be run
// again, and does nothing where all is there.
func SQL(dialect string, parts ...Part) (string, error) {
	all, err := load(dialect, parts)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for i, m := range all {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "-- %d_%s\n%s", m.Version, m.title, strings.Join(m.Up, ""))
	}
	return b.String(), nil
}
