package guard

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// States tells which states are terminal. Make one with Names, Prefixes or Func; the zero States has none and is refused.
type States struct {
	names    []string
	prefixes []string
	fn       func(state string) bool
}

// Names are terminal states by their exact, case-sensitive names.
func Names(names ...string) States { return States{names: slices.Clone(names)} }

// Prefixes makes terminal every state that begins with one of these. They are compared literally and case-sensitively: "_"
// and "%" are no wildcards.
func Prefixes(prefixes ...string) States { return States{prefixes: slices.Clone(prefixes)} }

// Func asks fn whether a state is terminal. fn must be pure, safe for concurrent use, and true of a state forever. SQL
// can't ask it, so the guard reads the state and then compares and sets what it saw: more round trips than Names and
// Prefixes take.
func Func(fn func(state string) bool) States { return States{fn: fn} }

// Terminal reports whether state is terminal.
func (s States) Terminal(state string) bool {
	if s.fn != nil {
		return s.fn(state)
	}
	return slices.Contains(s.names, state) ||
		slices.ContainsFunc(s.prefixes, func(p string) bool { return strings.HasPrefix(state, p) })
}

func (s States) validate() error {
	if s.fn == nil && len(s.names) == 0 && len(s.prefixes) == 0 {
		return errors.New("has no terminal states; use guard.Names, guard.Prefixes or guard.Func")
	}
	for _, text := range slices.Concat(s.names, s.prefixes) {
		if text == "" {
			return errors.New("has an empty name or prefix, which would make every state terminal or none")
		}
		if err := sqltx.CheckText(text); err != nil {
			return fmt.Errorf("has a name or prefix that %w", err)
		}
	}
	return nil
}

// open returns the SQL condition that column holds no terminal state; PostgreSQL only, and not for Func. The "C" collation
// makes it compare bytes even where the column's own collation would take two spellings for equal.
func (s States) open(column string) string {
	text := column + `::text COLLATE "C"`
	var terminal []string
	if len(s.names) > 0 {
		quoted := make([]string, len(s.names))
		for i, name := range s.names {
			quoted[i] = sqltx.Literal(name)
		}
		terminal = append(terminal, fmt.Sprintf("%s IN (%s)", text, strings.Join(quoted, ", ")))
	}
	for _, p := range s.prefixes {
		terminal = append(terminal, fmt.Sprintf("starts_with(%s, %s)", text, sqltx.Literal(p)))
	}
	return fmt.Sprintf("(%s IS NULL OR NOT (%s))", column, strings.Join(terminal, " OR "))
}

// openIn is open or openSQLite, or empty for a Func.
func (s States) openIn(d sqltx.Dialect, column string) string {
	switch {
	case s.fn != nil:
		return ""
	case d == sqltx.SQLite:
		return s.openSQLite(column)
	}
	return s.open(column)
}

// openSQLite is open for SQLite.
func (s States) openSQLite(column string) string {
	literal := sqltx.SQLite.Literal
	var terminal []string
	for _, name := range s.names {
		terminal = append(terminal, fmt.Sprintf("%s = %s COLLATE BINARY", column, literal(name)))
	}
	for _, p := range s.prefixes {
		// SQLite's LIKE ignores case.
		terminal = append(terminal, fmt.Sprintf("substr(%s, 1, length(%s)) = %s COLLATE BINARY", column, literal(p), literal(p)))
	}
	return fmt.Sprintf("(%s IS NULL OR NOT (%s))", column, strings.Join(terminal, " OR "))
}
