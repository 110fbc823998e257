package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// Need is what a role must be allowed to do with a table. All stands for all of its columns.
type Need struct {
	Table                  string
	Select, Insert, Update []string
	Delete                 bool
	Sequence               string // a column whose sequence is read
}

// All are all columns of a table.
var All = []string{"*"}

// readable says whether the driver reads times and bytes. Where values come as text, as they do in pgx's exec mode and its simple
// protocol, it reads one of PostgreSQL's forms only, and other calls would fail once all is committed.
func readable(ctx context.Context, q endstate.Querier) error {
	if sqltx.Of(q) != sqltx.Postgres {
		return nil
	}
	var at time.Time
	var bytes []byte
	err := q.QueryRow(ctx, "SELECT timestamptz 'epoch', decode('ff', 'hex')").Scan(&at, &bytes)
	if err == nil || sqltx.State(err) != "" {
		return err
	}
	var style, output string
	if q.QueryRow(ctx, "SELECT current_setting('DateStyle'), current_setting('bytea_output')").Scan(&style, &output) != nil {
		return err // the connection is lost, rather
	}
	return fmt.Errorf("the driver can't read times or bytes as this connection sends them (DateStyle is %q, bytea_output %q): set DateStyle to ISO and bytea_output to hex for its role or in its URL: %w", style, output, err)
}

// Check says what the database lacks for those who need these tables: a table, a column, another type of one, an index, a
// privilege of the current role (PostgreSQL only), or a schema version that fits the library's: the newest file's. Target is
// the first of the tables that the files make. It writes nothing, and takes no lock that others would feel.
func Check(ctx context.Context, q endstate.Querier, schema, target string, fsys fs.FS, needs ...Need) error {
	set, err := load(schema, target, fsys)
	if err != nil {
		return err
	}
	if err := readable(ctx, q); err != nil {
		return err
	}
	needed := structure{functions: set.whole.functions}
	for _, need := range needs {
		t := set.whole.find(need.Table)
		if t == nil {
			return fmt.Errorf("no migration makes table %q", need.Table)
		}
		needed.tables = append(needed.tables, t)
	}
	lacks, err := needed.lacks(ctx, q)
	if err != nil {
		return err
	}
	have, err := set.version(ctx, q)
	if err != nil {
		return err
	}
	newest := set.newest()
	switch outdated := set.outdated(have); {
	case outdated != nil:
		lacks = append(lacks, outdated)
	case lacks != nil || have.noted && have.version < newest.Version:
		if have.noted && have.version < newest.Version {
			lacks = append(lacks, fmt.Errorf("the schema of %s is at version %d, and this library has %d", sqltx.Quote(schema, target), have.version, newest.Version))
		}
		lacks = append(lacks, fmt.Errorf("apply the migrations up to %s (Migrate does, and endstate migrate)", strings.TrimSuffix(newest.Name, ".sql")))
	}
	if lacks != nil {
		return errors.Join(lacks...)
	}
	for _, need := range needs {
		denied, err := Denied(ctx, q, schema, need, set.whole.find(need.Table).names())
		if err != nil {
			return err
		}
		lacks = append(lacks, denied...)
		if err := hidden(ctx, q, schema, need); err != nil {
			lacks = append(lacks, err)
		}
	}
	return errors.Join(lacks...)
}

// hidden says that row-level security may hide rows of a table of ours from the current role, or refuse some. What is hidden is
// passed over in silence: a relay's cursor moves past the event, and a ledger's entry is no bar to a second one. So there is
// to be a policy that lets all rows pass for what is needed, and none that restricts.
func hidden(ctx context.Context, q endstate.Querier, schema string, need Need) error {
	if sqltx.Of(q) == sqltx.SQLite {
		return nil
	}
	commands := "r" // as in pg_policy
	for command, needed := range map[string]bool{"a": need.Insert != nil, "w": need.Update != nil, "d": need.Delete} {
		if needed {
			commands += command
		}
	}
	name := sqltx.Quote(schema, need.Table)
	var role string
	var hides bool
	if err := q.QueryRow(ctx, `SELECT quote_ident(current_user), row_security_active(c.oid) AND (
	EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive)
	OR EXISTS (SELECT FROM regexp_split_to_table($2::text, '') AS command WHERE NOT EXISTS (SELECT FROM pg_policy AS p
		WHERE p.polrelid = c.oid AND p.polcmd::text IN ('*', command)
		AND EXISTS (SELECT FROM unnest(p.polroles) AS r WHERE r = 0 OR pg_has_role(r, 'USAGE'))
		AND coalesce(pg_get_expr(p.polqual, p.polrelid), 'true') = 'true'
		AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'true') = 'true')))
FROM pg_class AS c WHERE c.oid = to_regclass($1::text)`, name, commands).Scan(&role, &hides); err != nil {
		return err
	}
	if !hides {
		return nil
	}
	return fmt.Errorf("row-level security of %[1]s may hide rows from role %[2]s: CREATE POLICY endstate ON %[1]s TO %[2]s USING (true), without others AS RESTRICTIVE, or ALTER ROLE %[2]s BYPASSRLS", name, role)
}

// Denied says which privileges on a table the current role lacks; columns are all of its columns, where All is asked for. On
// SQLite there are none.
func Denied(ctx context.Context, q endstate.Querier, schema string, need Need, columns []string) (denied []error, err error) {
	if sqltx.Of(q) == sqltx.SQLite {
		return nil, nil
	}
	name := sqltx.Quote(schema, need.Table)
	for _, p := range []struct {
		privilege string
		columns   []string
	}{{"SELECT", need.Select}, {"INSERT", need.Insert}, {"UPDATE", need.Update}} {
		if len(p.columns) == 0 {
			continue
		}
		if slices.Equal(p.columns, All) {
			p.columns = columns
		}
		list, err := json.Marshal(p.columns)
		if err != nil {
			return nil, err
		}
		lacking, err := Strings(ctx, q, `SELECT quote_ident(c) FROM json_array_elements_text($2::text::json) AS c JOIN pg_attribute a ON a.attrelid = to_regclass($1::text) AND a.attname = c WHERE NOT has_column_privilege(a.attrelid, a.attnum, $3::text)`, name, string(list), p.privilege)
		if err != nil {
			return nil, err
		}
		if len(lacking) == 0 {
			continue
		}
		of := ""
		if len(lacking) < len(columns) || len(columns) == 0 && !slices.Contains(lacking, "ctid") {
			of = " (" + strings.Join(lacking, ", ") + ")"
		}
		denied = append(denied, denial(ctx, q, p.privilege+of, name))
	}
	if need.Delete {
		var allowed bool
		if err := q.QueryRow(ctx, "SELECT has_table_privilege(to_regclass($1::text), 'DELETE')", name).Scan(&allowed); err != nil {
			return nil, err
		}
		if !allowed {
			denied = append(denied, denial(ctx, q, "DELETE", name))
		}
	}
	if need.Sequence != "" {
		// A role that may not use the schema gets no name, and was refused the table before.
		sequence := "pg_get_serial_sequence($1::text, $2::text)"
		var its string
		var allowed bool
		if err := q.QueryRow(ctx, "SELECT coalesce("+sequence+", ''), coalesce(has_sequence_privilege("+sequence+", 'SELECT'), true)", name, need.Sequence).Scan(&its, &allowed); err != nil {
			return nil, err
		}
		if !allowed {
			denied = append(denied, denial(ctx, q, "SELECT", "SEQUENCE "+its))
		}
	}
	return denied, nil
}

func denial(ctx context.Context, q endstate.Querier, privilege, table string) error {
	var role string
	if err := q.QueryRow(ctx, "SELECT quote_ident(current_user)").Scan(&role); err != nil {
		return err
	}
	return fmt.Errorf("role %[1]s lacks a privilege: GRANT %[2]s ON %[3]s TO %[1]s", role, privilege, table)
}

func (s *set) newest() File { return s.files[len(s.files)-1] }

// outdated says that the database is too new for this library.
func (s *set) outdated(have noted) error {
	if have.compatible <= s.newest().Version {
		return nil
	}
	return fmt.Errorf("the schema of %s is at version %d, which works with libraries from %d on, and this one has %d: use a newer one",
		sqltx.Quote(s.schema, s.target), have.version, have.compatible, s.newest().Version)
}

// noted is what a database notes of the migrations that ran, whoever ran them.
type noted struct {
	noted               bool
	version, compatible int64
}

// version reads it. A database may note nothing, or not to everybody.
func (s *set) version(ctx context.Context, q endstate.Querier) (n noted, err error) {
	log := sqltx.Quote(s.schema, Table)
	readable := "SELECT coalesce(has_table_privilege(to_regclass($1::text), 'SELECT'), false)"
	if sqltx.Of(q) == sqltx.SQLite {
		readable = "SELECT count(*) > 0 FROM pragma_table_info(?1, " + schemaOr(s.schema) + ")"
		if err := q.QueryRow(ctx, readable, Table).Scan(&n.noted); err != nil || !n.noted {
			return n, err
		}
	} else if err := q.QueryRow(ctx, readable, log).Scan(&n.noted); err != nil || !n.noted {
		return n, err
	}
	var count int
	err = q.QueryRow(ctx, "SELECT count(*), coalesce(max(version), 0), coalesce(max(compatible), 0) FROM "+log+" WHERE target = $1", s.target).Scan(&count, &n.version, &n.compatible)
	n.noted = count > 0
	return n, err
}

// schemaOr is a schema of SQLite as an argument of its table functions.
func schemaOr(schema string) string {
	if schema == "" {
		schema = "main"
	}
	return "'" + strings.ReplaceAll(schema, "'", "''") + "'"
}
