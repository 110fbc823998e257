package published

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate/internal/sqltx"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][2]string{ // the statement on PostgreSQL, and on SQLite
		"status = SENT":                         {`(("status" = 'SENT') IS TRUE)`, `(("status" = 'SENT') IS TRUE)`},
		" status='SENT' ":                       {`(("status" = 'SENT') IS TRUE)`, `(("status" = 'SENT') IS TRUE)`},
		`"Sent at" is not NULL`:                 {`(("Sent at" IS NOT NULL) IS TRUE)`, `(("Sent at" IS NOT NULL) IS TRUE)`},
		`sent Is null`:                          {`(("sent" IS NULL) IS TRUE)`, `(("sent" IS NULL) IS TRUE)`},
		`"a""b" <> 'it''s \'`:                   {`(("a""b" <> E'it''s \\') IS TRUE)`, `(("a""b" <> 'it''s \') IS TRUE)`},
		"sent = 1":                              {`(("sent" = '1') IS TRUE)`, `(("sent" = 1) IS TRUE)`},
		"sent = '1'":                            {`(("sent" = '1') IS TRUE)`, `(("sent" = '1') IS TRUE)`},
		"sent != true":                          {`(("sent" <> 'true') IS TRUE)`, `(("sent" <> true) IS TRUE)`},
		"sent IN (-1, 'x, y)', Z)":              {`(("sent" IN ('-1', 'x, y)', 'Z')) IS TRUE)`, `(("sent" IN (-1, 'x, y)', 'Z')) IS TRUE)`},
		"sent\nnot  in\t(1)":                    {`(("sent" NOT IN ('1')) IS TRUE)`, `(("sent" NOT IN (1)) IS TRUE)`},
		"at <> 1970-01-01T00:00:00.000+00:00":   {`(("at" <> '1970-01-01T00:00:00.000+00:00') IS TRUE)`, `(("at" <> '1970-01-01T00:00:00.000+00:00') IS TRUE)`},
		"état = 'é\n'":                          {"((\"état\" = 'é\n') IS TRUE)", "((\"état\" = 'é\n') IS TRUE)"},
		`"x = 1" = 'a' `:                        {`(("x = 1" = 'a') IS TRUE)`, `(("x = 1" = 'a') IS TRUE)`},
		"status = 'a''; DROP TABLE t; --'":      {`(("status" = 'a''; DROP TABLE t; --') IS TRUE)`, `(("status" = 'a''; DROP TABLE t; --') IS TRUE)`},
		`"t"";drop" IS NOT NULL`:                {`(("t"";drop" IS NOT NULL) IS TRUE)`, `(("t"";drop" IS NOT NULL) IS TRUE)`},
		"is = is":                               {`(("is" = 'is') IS TRUE)`, `(("is" = 'is') IS TRUE)`},
		"status in (SELECT)":                    {`(("status" IN ('SELECT')) IS TRUE)`, `(("status" IN ('SELECT')) IS TRUE)`},
		"in IN (IN)":                            {`(("in" IN ('IN')) IS TRUE)`, `(("in" IN ('IN')) IS TRUE)`},
		"public.status = X":                     {`(("public.status" = 'X') IS TRUE)`, `(("public.status" = 'X') IS TRUE)`},
		"status = current_user":                 {`(("status" = 'current_user') IS TRUE)`, `(("status" = 'current_user') IS TRUE)`},
		"status = $1":                           {`(("status" = '$1') IS TRUE)`, `(("status" = '$1') IS TRUE)`},
		"status NOT IN ('NEW', 'it''s, \"x\"')": {`(("status" NOT IN ('NEW', 'it''s, "x"')) IS TRUE)`, `(("status" NOT IN ('NEW', 'it''s, "x"')) IS TRUE)`},
	} {
		c, err := Parse(text)
		require.NoError(t, err, text)
		require.True(t, c.Stated())
		require.Equal(t, want, [2]string{c.sql(sqltx.Postgres), c.sql(sqltx.SQLite)}, text)
	}
	for text, column := range map[string]string{"published_at": "published_at", "sent at": "sent at", " x": " x", "%s": "%s", `"x = 1"`: "x = 1", "größe $1": "größe $1"} {
		c, err := Parse(text)
		require.NoError(t, err, text)
		require.False(t, c.Stated())
		require.Equal(t, column, c.Column)
	}
	for text, says := range map[string]string{
		"": "no condition", "status = SENT OR 1=1": "write COLUMN", "status = SENT; DROP TABLE t": "write COLUMN", "status = 'a' 'b'": "write COLUMN",
		"status = ": "no condition", "= SENT": "no condition", "status > 3": "no condition", "status LIKE 'x%'": "no condition", "status = NULL": "nothing equals NULL",
		"status IN ()": "no condition", "status IN (a,)": "write COLUMN", "status IN (a b)": "write COLUMN", "status = a, b": "several values", "status = 'a": "write COLUMN",
		"lower(status) = 'a'": "no condition", `status = "x"`: "write COLUMN", "status = a -- b": "write COLUMN", "status = /**/": "", "a.b = c = d": "write COLUMN",
		"status = 1 = 1": "write COLUMN", "status IN (1) OR (true)": "write COLUMN", `"" = x`: "no condition", "a\x00 = b": "NUL", "\xff = b": "UTF-8", strings.Repeat("x", 64) + " = 1": "64 bytes",
	} {
		c, err := Parse(text)
		if says == "" {
			require.NoError(t, err, text) // a value like another
			continue
		}
		require.ErrorContains(t, err, says, "%q is %v", text, c)
	}
}

// Whatever is parsed is one expression, whose meaning survives being written and read again.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"published_at", "status = SENT", `"a""b" NOT IN ('it''s', 1, x)`, "sent IS NOT NULL", "a != 'b' -- ", "x IN (SELECT 1)", "x = '\\'", "x=1;y=2", "\"x\ty\"<>'\n'"} {
		f.Add(seed)
	}
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(f, err)
	db.SetMaxOpenConns(1)
	f.Cleanup(func() { _ = db.Close() })
	f.Fuzz(func(t *testing.T, text string) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(c.String())
		require.NoError(t, err, "%q of %q", c.String(), text)
		require.Equal(t, c.String(), again.String())
		require.Equal(t, c.Stated(), again.Stated())
		if !c.Stated() {
			return
		}
		expression := c.sql(sqltx.SQLite)
		// The statement has one row that says true or false; what follows an expression would be another's, or an error.
		var verdict bool
		err = db.QueryRow(fmt.Sprintf("SELECT %s FROM (SELECT 1 AS %s) WHERE 7 = 7", expression, sqltx.Quote("", c.Column))).Scan(&verdict)
		require.NoError(t, err, expression)
		// Nor does what a user wrote stand anywhere but inside of quotes, once the words that Parse writes are gone.
		for _, dialect := range []sqltx.Dialect{sqltx.Postgres, sqltx.SQLite} {
			require.NoError(t, onlyQuoted(c.sql(dialect), dialect))
		}
	})
}

// onlyQuoted takes quoted parts and the words of a condition away, and says what is left.
func onlyQuoted(text string, dialect sqltx.Dialect) error {
	var rest strings.Builder
	for i := 0; i < len(text); i++ {
		quote := text[i]
		if quote != '\'' && quote != '"' {
			rest.WriteByte(quote)
			continue
		}
		escapes := quote == '\'' && dialect == sqltx.Postgres && i > 0 && text[i-1] == 'E'
		for i++; ; i++ {
			if i >= len(text) {
				return errors.New("a quote that doesn't end: " + text)
			}
			if escapes && text[i] == '\\' {
				i++
			} else if text[i] == quote {
				if i+1 == len(text) || text[i+1] != quote {
					break
				}
				i++
			}
		}
	}
	for _, word := range strings.FieldsFunc(rest.String(), func(r rune) bool { return strings.ContainsRune(" (),", r) }) {
		switch strings.ToUpper(word) {
		case "=", "<>", "IN", "NOT", "IS", "NULL", "TRUE", "FALSE", "E":
		default:
			if dialect == sqltx.Postgres || !number.MatchString(word) {
				return fmt.Errorf("%q stands in %s", word, text)
			}
		}
	}
	return nil
}
