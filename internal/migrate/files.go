package migrate

import (
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// File is one migration.
type File struct {
	Version  int64
	Name     string // of the file
	Up, Down []string
}

// Load reads the migrations in fsys, in the order of their versions.
func Load(fsys fs.FS) ([]File, error) {
	names, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return nil, err
	}
	files := make([]File, 0, len(names))
	for _, name := range names {
		version, err := versionOf(name)
		if err != nil {
			return nil, err
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		up, down := Statements(string(text))
		files = append(files, File{version, name, up, down})
	}
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Version, b.Version) })
	return files, nil
}

func versionOf(name string) (int64, error) {
	number, _, _ := strings.Cut(name, "_")
	version, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("migration %s: its name has no version: %w", name, err)
	}
	return version, nil
}

// Statements returns the statements of a file's two halves. Every statement stands between goose's StatementBegin and
// StatementEnd.
func Statements(text string) (up, down []string) {
	first, second, _ := strings.Cut(text, "-- +goose Down")
	return statements(first), statements(second)
}

// Up returns the statements of a file's Up half.
func Up(text string) []string {
	up, _ := Statements(text)
	return up
}

func statements(text string) (list []string) {
	for {
		_, rest, found := strings.Cut(text, statementBegin)
		if !found {
			return list
		}
		statement, after, _ := strings.Cut(rest, statementEnd)
		list = append(list, statement)
		text = after
	}
}

const (
	mark           = "-- +goose"
	statementBegin = mark + " StatementBegin\n"
	statementEnd   = mark + " StatementEnd"
)

// Rename returns fsys with a default table's name replaced by that of another table, in the names of its indexes too, and
// in those of its companions: tables whose names are the table's with a suffix. Its statements can be run again, and each
// file notes its version, whoever runs it: so that what one tool has run is nobody else's trouble.
func Rename(fsys fs.FS, d sqltx.Dialect, from, schema, to string, companions ...string) fs.FS {
	var pairs []string
	for _, suffix := range companions {
		pairs = append(pairs, rename(d, from+suffix, schema, to+suffix)...)
	}
	replacer := strings.NewReplacer(append(pairs, rename(d, from, schema, to)...)...)
	return changed{fsys, func(name, text string) (string, error) {
		if named := schema + " " + to; strings.Contains(named, mark) {
			return "", fmt.Errorf("migration %s: the name %q has %q in it, which marks where statements begin and end", name, named, mark)
		}
		version, err := versionOf(name)
		if err != nil {
			return "", err
		}
		compatible, err := compatibleWith(fsys, version, text)
		if err != nil {
			return "", err
		}
		up, down, _ := strings.Cut(replaceCode(replacer, repeatable(d, text)), "-- +goose Down\n")
		noted, forgotten := note(d, schema, to, version, compatible)
		return strings.TrimRight(up, "\n") + "\n" + noted + "\n-- +goose Down\n" + strings.TrimRight(down, "\n") + "\n" + forgotten, nil
	}}
}

// replaceCode replaces outside of comments, which a name with a line break would end.
func replaceCode(replacer *strings.Replacer, text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		code, comment, found := strings.Cut(line, "--")
		b.WriteString(replacer.Replace(code))
		if found {
			b.WriteString("--" + comment)
		}
	}
	return b.String()
}

// breaks marks a file after which libraries of earlier versions no longer work. It is the file's first line.
const breaks = "-- endstate: breaks earlier versions\n"

// compatibleWith returns the oldest library's version that works with a file's: that of the last file up to it which broke
// earlier ones, or else the first's.
func compatibleWith(fsys fs.FS, version int64, text string) (int64, error) {
	if strings.HasPrefix(text, breaks) {
		return version, nil
	}
	names, err := fs.Glob(fsys, "*.sql")
	if err != nil {
		return 0, err
	}
	slices.Sort(names)
	compatible := version
	for i, name := range names {
		v, err := versionOf(name)
		if err != nil || v > version {
			return compatible, err
		}
		earlier, err := fs.ReadFile(fsys, name)
		if err != nil {
			return 0, err
		}
		if i == 0 || strings.HasPrefix(string(earlier), breaks) {
			compatible = v
		}
	}
	return compatible, nil
}

var (
	createTable    = regexp.MustCompile(`(?m)^CREATE (UNLOGGED )?TABLE "`)
	createIndex    = regexp.MustCompile(`(?m)^CREATE (UNIQUE )?INDEX "`)
	createFunction = regexp.MustCompile(`(?m)^CREATE FUNCTION "`)
	insert         = regexp.MustCompile(`(?m)^INSERT INTO ([^;]*);`)
	drop           = regexp.MustCompile(`(?m)^DROP (TABLE|INDEX|FUNCTION) "`)
)

// repeatable makes the statements of a file do nothing where what they make is there.
func repeatable(d sqltx.Dialect, text string) string {
	text = createTable.ReplaceAllString(text, `CREATE ${1}TABLE IF NOT EXISTS "`)
	text = createIndex.ReplaceAllString(text, `CREATE ${1}INDEX IF NOT EXISTS "`)
	text = createFunction.ReplaceAllString(text, `CREATE OR REPLACE FUNCTION "`)
	text = drop.ReplaceAllString(text, `DROP ${1} IF EXISTS "`)
	if d == sqltx.SQLite {
		return insert.ReplaceAllString(text, `INSERT OR IGNORE INTO ${1};`)
	}
	return insert.ReplaceAllString(text, `INSERT INTO ${1} ON CONFLICT DO NOTHING;`)
}

// Table is where each file notes its version, in the schema of its tables.
const Table = "endstate_migrations"

// note returns what a file says at its end to note its version, and to take that back.
func note(d sqltx.Dialect, schema, target string, version, compatible int64) (noted, forgotten string) {
	log, name, at := sqltx.Quote(schema, Table), sqltx.Literal(target), "timestamptz NOT NULL DEFAULT clock_timestamp()"
	if d == sqltx.SQLite {
		name, at = "'"+strings.ReplaceAll(target, "'", "''")+"'", "text NOT NULL DEFAULT ("+d.Clock()+")"
	}
	noted = statementBegin + "CREATE TABLE IF NOT EXISTS " + log + ` (
    target     text   NOT NULL, -- the first of the tables
    version    bigint NOT NULL, -- of the file
    compatible bigint NOT NULL, -- the oldest version of the library that works with it
    applied_at ` + at + `,
    PRIMARY KEY (target, version)
);
` + statementEnd + "\n" + statementBegin +
		fmt.Sprintf("INSERT INTO %s (target, version, compatible) VALUES (%s, %d, %d) ON CONFLICT DO NOTHING;\n", log, name, version, compatible) + statementEnd + "\n"
	forgotten = statementBegin + fmt.Sprintf("DELETE FROM %s WHERE target = %s AND version = %d;\n", log, name, version) + statementEnd + "\n"
	return noted, forgotten
}

func rename(d sqltx.Dialect, from, schema, to string) []string {
	table, index := sqltx.Quote(schema, to), strings.TrimSuffix(sqltx.Quote("", to), `"`)+"_"
	on := table
	if d == sqltx.SQLite {
		// There an index is qualified, and its table must not be.
		index, on = strings.TrimSuffix(table, `"`)+"_", sqltx.Quote("", to)
	}
	return []string{
		` ON "` + from + `"`, " ON " + on,
		`"` + from + `"`, table,
		`"` + from + `_`, index,
	}
}

// Replace returns fsys with text replaced in its SQL files as they are read.
func Replace(fsys fs.FS, replacer *strings.Replacer) fs.FS {
	return changed{fsys, func(_, text string) (string, error) { return replacer.Replace(text), nil }}
}

// changed is a file system whose SQL files change as they are read.
type changed struct {
	fs.FS
	change func(name, text string) (string, error)
}

func (c changed) Open(name string) (fs.File, error) {
	f, err := c.FS.Open(name)
	if err != nil || path.Ext(name) != ".sql" {
		return f, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(c.FS, name)
	if err != nil {
		return nil, err
	}
	out, err := c.change(name, string(text))
	if err != nil {
		return nil, err
	}
	return &file{Reader: strings.NewReader(out), info: fileInfo{info, int64(len(out))}}, nil
}

type file struct {
	*strings.Reader
	info fileInfo
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *file) Close() error               { return nil }

type fileInfo struct {
	fs.FileInfo
	size int64
}

func (i fileInfo) Size() int64        { return i.size }
func (i fileInfo) ModTime() time.Time { return time.Time{} }
