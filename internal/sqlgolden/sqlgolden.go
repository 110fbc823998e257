// Package sqlgolden keeps the SQL that is sent in files, for tests: a reader sees each statement whole, and a diff shows what
// changed. Run a test with -update to write its files anew.
package sqlgolden

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files of SQL statements anew")

// File is a golden file in the making.
type File struct{ text strings.Builder }

// Section begins a part of the file.
func (f *File) Section(title string) { f.text.WriteString("\n-- # " + title + "\n") }

// Add adds statements that are sent for one purpose.
func (f *File) Add(title string, statements ...string) {
	f.text.WriteString("\n-- " + title + "\n")
	for _, sql := range statements {
		f.text.WriteString(Format(sql) + ";\n")
	}
}

// Require compares the file with testdata/statements/NAME.sql. The names that its statements introduce must all begin with
// endstate_, lest one meets a table or a column of a service's.
func (f *File) Require(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join("testdata", "statements", name+".sql")
	text := strings.TrimPrefix(f.text.String(), "\n")
	require.Empty(t, Foreign(text), "names that don't begin with endstate_ in %s", path)
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "go test -update writes it")
	require.Equal(t, string(want), text, "%s: if the change is meant, run the test with -update and look at the diff", path)
}

var (
	introduced = []*regexp.Regexp{
		regexp.MustCompile(`\bAS ("[^"]+"|\w+)`),                                                  // of a relation or a column
		regexp.MustCompile(`(?:WITH|WITH RECURSIVE|,)\s+("[^"]+"|\w+)(?: \([^()]*\))? AS\b`),      // of a WITH clause
		regexp.MustCompile(`(?:FROM|JOIN|UPDATE|INTO)\s+(?:ONLY\s+)?"[^"]+"(?:\."[^"]+")? (\w+)`), // of a table, without AS
	}
	castTypes = regexp.MustCompile(`^(text|bigint|int8|uuid|json|jsonb|timestamptz|double|MATERIALIZED|ORDINALITY)$`)
	keywords  = regexp.MustCompile(`^(AS|SET|WHERE|VALUES|SELECT|ON|ORDER|LIMIT|LEFT|CROSS|JOIN|FOR|USING|RETURNING|UNION|DEFAULT)$`)
)

// Foreign are the names that SQL introduces and that don't begin with endstate_.
func Foreign(sql string) (names []string) {
	for i, pattern := range introduced {
		for _, match := range pattern.FindAllStringSubmatch(sql, -1) {
			name := strings.Trim(match[1], `"`)
			if strings.HasPrefix(name, "endstate_") || castTypes.MatchString(name) || i == 2 && keywords.MatchString(name) {
				continue
			}
			names = append(names, match[0])
		}
	}
	return names
}
