package guard

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/migrate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// TerminalStateSQLState is the SQLSTATE with which PostgreSQL refuses to leave or overwrite a terminal state in a table that
// Status.Protect protects. SQLite has no SQLSTATE: there the error's code is 1811 (SQLITE_CONSTRAINT_TRIGGER), and its text
// begins with this.
const TerminalStateSQLState = "TS001"

//go:embed protection
var protection embed.FS

// protectionFile is the only one of each dialect.
const protectionFile = "00011_protect.sql"

// Protect installs a trigger on the service's table that refuses an UPDATE which would leave or overwrite a terminal state,
// also by code that doesn't ask the guard. Other columns may change, and so may states that aren't terminal. It is optional:
// the guard is correct without it, as long as everybody asks the guard.
//
// It may be called at every start and by many processes at once: where the trigger is in place it only looks, and a changed
// Terminal replaces it. Nothing is done before tx commits; on SQLite a caller that finds the database busy must run the
// transaction again. It locks the table against writers while it installs. To install or
// replace the trigger on PostgreSQL (14 or newer) the role must own the table, and may create a function in its schema; where it is
// in place, no right is needed. A Func can't be put into SQL and is refused with ErrConfig; a
// table or column that isn't there is ErrSchema.
//
// The trigger doesn't see DELETE and TRUNCATE, SQLite's REPLACE (a DELETE and an INSERT), or sessions for which a superuser
// switched triggers off.
func (s Status) Protect(ctx context.Context, tx endstate.Tx) error {
	d := sqltx.Of(tx)
	files, err := s.ProtectionMigrations(string(d))
	if err != nil {
		return err
	}
	if err := s.protect(ctx, tx, d, files); err != nil {
		return fmt.Errorf("guard: protect %s: %w", s.table(), err)
	}
	return nil
}

func (s Status) protect(ctx context.Context, tx endstate.Tx, d sqltx.Dialect, files fs.FS) error {
	text, err := fs.ReadFile(files, protectionFile)
	if err != nil {
		return err
	}
	statements := migrate.Up(string(text))
	if d == sqltx.SQLite {
		// Wait for other writers before looking at what they did.
		if err := writeNothing(ctx, tx, s.table(), s.column()); err != nil && !sqltx.Incomplete(err) {
			return err
		}
	}
	if err := migrate.Missing(ctx, tx, s.Schema, s.Table, []string{s.Column}); err != nil {
		return sqltx.Lacking(ErrSchema, fmt.Errorf("%w (this table is the service's own)", err))
	}
	if d == sqltx.SQLite {
		return s.protectSQLite(ctx, tx, strings.TrimSpace(statements[0]))
	}
	if done, err := s.protected(ctx, tx); done || err != nil {
		return err
	}
	if err := migrate.Lock(ctx, tx); err != nil {
		return err
	}
	// Somebody else may have done it meanwhile.
	if done, err := s.protected(ctx, tx); done || err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err := tx.Exec(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// protected reports whether the trigger is in place as it should be.
func (s Status) protected(ctx context.Context, tx endstate.Tx) (done bool, err error) {
	err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_trigger
WHERE tgrelid = to_regclass($1::text) AND tgname = $2::text AND tgenabled IN ('O', 'A') AND obj_description(oid, 'pg_trigger') = $3::text)`,
		s.table(), s.triggerName(), s.protectionComment()).Scan(&done)
	return done, err
}

// protectSQLite puts the trigger in place, unless it is; SQLite can't replace one.
func (s Status) protectSQLite(ctx context.Context, tx endstate.Tx, create string) error {
	catalog := "sqlite_schema"
	if s.Schema != "" {
		catalog = sqltx.Quote("", s.Schema) + "." + catalog
	}
	found, err := migrate.Strings(ctx, tx, "SELECT sql FROM "+catalog+" WHERE type = 'trigger' AND name = ?1", s.triggerName())
	if err != nil {
		return err
	}
	if len(found) > 0 {
		if found[0] == create {
			return nil
		}
		if _, err := tx.Exec(ctx, "DROP TRIGGER "+sqltx.Quote(s.Schema, s.triggerName())); err != nil {
			return err
		}
	}
	_, err = tx.Exec(ctx, create)
	return err
}

// ProtectionMigrations returns what Protect does as a migration in goose's format, for dialect "postgres" or "sqlite". Its
// version, 11, meets neither the ledger's nor the outbox's; where several tables are protected, give the copies of the file
// numbers of your own. When Terminal changes, add a migration with the file's new text.
func (s Status) ProtectionMigrations(dialect string) (fs.FS, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	if s.Terminal.fn != nil {
		return nil, fmt.Errorf("%w: Status.Terminal %w", ErrConfig, errors.New("is a guard.Func, which a trigger can't ask; use guard.Names or guard.Prefixes"))
	}
	dir, err := fs.Sub(protection, "protection/"+dialect)
	if err == nil {
		_, err = fs.Stat(dir, ".")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: no migrations for dialect %q; there are postgres and sqlite", ErrConfig, dialect)
	}
	trigger, table := sqltx.Quote("", s.triggerName()), s.table()
	if dialect == string(sqltx.SQLite) {
		// The trigger is qualified, and its table is in the same schema.
		trigger, table = sqltx.Quote(s.Schema, s.triggerName()), sqltx.Quote("", s.Table)
	}
	return migrate.Replace(dir, strings.NewReplacer(
		"{{trigger}}", trigger,
		"{{table}}", table,
		"{{function}}", sqltx.Quote(s.Schema, s.triggerName()),
		"{{column}}", s.column(),
		"{{column text}}", sqltx.Literal(s.Column),
		"{{open}}", s.Terminal.open("OLD."+s.column()),
		"{{terminal}}", s.Terminal.terminalSQLite("OLD."+s.column()),
		"{{comment}}", s.protectionComment(),
		"{{message}}", literalSQLite(fmt.Sprintf("%s endstate: column %s of table %s holds a terminal state, which is never left or overwritten; finalize through package finalize, or drop trigger %s to fix a row by hand",
			TerminalStateSQLState, s.column(), s.table(), s.triggerName())),
	)), nil
}

// protectionComment tells two versions of the trigger apart.
func (s Status) protectionComment() string {
	text, _ := protection.ReadFile("protection/postgres/" + protectionFile) // it is embedded
	return fmt.Sprintf("endstate %x", sha256.Sum256(append(text, s.table()+"\x00"+s.Terminal.open("OLD."+s.column())...)))
}

// triggerName names the trigger and its function: legibly, in 63 bytes or less whatever the table and column are called, and
// so that no two columns share a name. PostgreSQL fires triggers in the order of their names.
func (s Status) triggerName() string {
	legible := strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z') {
			return r
		}
		return '_'
	}, s.Table+"_"+s.Column)
	return fmt.Sprintf("zz_endstate_%.40s_%.5x", legible, sha256.Sum256([]byte(s.Table+"\x00"+s.Column)))
}

// terminalSQLite returns the SQLite condition that column holds a terminal state; not for Func. It compares bytes, whatever
// the column's collation.
func (s States) terminalSQLite(column string) string {
	text := "CAST(" + column + " AS TEXT)"
	var terminal []string
	for _, name := range s.names {
		terminal = append(terminal, fmt.Sprintf("%s COLLATE BINARY = %s", text, literalSQLite(name)))
	}
	for _, p := range s.prefixes {
		terminal = append(terminal, fmt.Sprintf("substr(%s, 1, %d) COLLATE BINARY = %s", text, utf8.RuneCountInString(p), literalSQLite(p)))
	}
	return strings.Join(terminal, " OR ")
}

// literalSQLite quotes a string constant; a backslash means nothing in it.
func literalSQLite(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
