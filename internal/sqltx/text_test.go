package sqltx_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// A text is what it was, as a name and as a constant, and nothing of it is taken for SQL: SQLite says so itself, and for PostgreSQL,
// which a fuzzer has none of, its lexical rules are read backwards.
func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"batches", `a"b`, `"`, `it's`, `back\slash`, `\'`, "a.b", "$1", "?", "--", "/*", "E'x'", "\u202e", "日本", "tab\there"} {
		f.Add(seed)
	}
	db := dbtest.SQLite(f)
	f.Fuzz(func(t *testing.T, text string) {
		if sqltx.CheckText(text) != nil {
			return
		}
		var got string
		require.NoError(t, db.QueryRow("SELECT "+sqltx.SQLite.Literal(text)).Scan(&got), "%q", text)
		require.Equal(t, text, got)
		for _, conforming := range []bool{true, false} {
			read, rest := constant(t, sqltx.Postgres.Literal(text)+" x", conforming)
			require.Equal(t, text, read)
			require.Equal(t, " x", rest)
		}
		if sqltx.CheckIdent(text) != nil {
			return
		}
		read, rest := quoted(t, sqltx.Quote("", text)+" x", '"')
		require.Equal(t, text, read)
		require.Equal(t, " x", rest)
		read, rest = quoted(t, sqltx.Quote(text, text), '"')
		require.Equal(t, text, read)
		require.Equal(t, "."+sqltx.Quote("", text), rest)
		require.Equal(t, text, column(t, db, text))
	})
}

// column is how SQLite calls a column of this name.
func column(t *testing.T, db *sql.DB, name string) string {
	t.Helper()
	rows, err := db.Query("SELECT * FROM (SELECT 1 AS " + sqltx.Quote("", name) + ") AS " + sqltx.Quote("", name))
	require.NoError(t, err, "%q", name)
	defer rows.Close()
	columns, err := rows.Columns()
	require.NoError(t, err)
	require.Len(t, columns, 1)
	return columns[0]
}

// constant reads a string constant as PostgreSQL does, by either setting of standard_conforming_strings.
func constant(t *testing.T, text string, conforming bool) (read, rest string) {
	t.Helper()
	escapes, explicit := strings.CutPrefix(text, "E")
	if !explicit && conforming {
		return quoted(t, text, '\'')
	}
	require.Equal(t, byte('\''), escapes[0])
	var b strings.Builder
	for i := 1; i < len(escapes); i++ {
		switch c := escapes[i]; {
		case c == '\\':
			i++
			require.Contains(t, `\'`, string(escapes[i]), "no other escape is written")
			b.WriteByte(escapes[i])
		case c == '\'' && i+1 < len(escapes) && escapes[i+1] == '\'':
			i++
			b.WriteByte(c)
		case c == '\'':
			return b.String(), escapes[i+1:]
		default:
			b.WriteByte(c)
		}
	}
	require.Fail(t, "it has no end")
	return "", ""
}

// quoted reads what stands in quotes that are doubled within.
func quoted(t *testing.T, text string, quote byte) (read, rest string) {
	t.Helper()
	require.Equal(t, quote, text[0])
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		if text[i] != quote {
			b.WriteByte(text[i])
			continue
		}
		if i+1 == len(text) || text[i+1] != quote {
			return b.String(), text[i+1:]
		}
		b.WriteByte(quote)
		i++
	}
	require.Fail(t, "it has no end")
	return "", ""
}
