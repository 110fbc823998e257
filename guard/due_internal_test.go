package guard

import (
	"fmt"
	"testing"

	"github.com/endstate-go/endstate/internal/sqlgolden"
)

// The pages in which due rows are read.
func TestDueStatements(t *testing.T) {
	s := Status{Table: "orders", Keys: []string{"id", "created_at", "day", "code"}, Column: "status", Terminal: Names("PAID"), Touched: "touched_at"}
	columns := []keyColumn{{`"id"`, "character(12)", kindText, false}, {`"created_at"`, "timestamp with time zone", kindTime, true}, {`"day"`, "date", kindDate, false}, {`"code"`, "bytea", kindBytes, false}}
	var f sqlgolden.File
	touched := fmt.Sprintf("%[1]s IS NULL OR %[1]s < clock_timestamp()", `"touched_at"`)
	p := pager{Status: s, postgres: touched, sqlite: "due_at < datetime('now')", args: []any{300}, columns: columns}
	sql, _ := p.query(nil)
	f.Add("PostgreSQL: the first page", sql)
	sql, _ = p.query([]any{"k", "2026-01-31T00:00:00.000000Z", "2026-01-31", "ff"})
	f.Add("PostgreSQL: a later page", sql)
	sql, _ = p.querySQLite(nil)
	f.Add("SQLite: the first page", sql)
	sql, _ = p.querySQLite([]any{"k", "2026-01-31T00:00:00.000000Z", "2026-01-31", []byte{0xff}})
	f.Add("SQLite: a later page", sql)
	f.Require(t, "due")
}
