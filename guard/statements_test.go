package guard_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqlgolden"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// The statements that guards send by themselves: on SQLite, and on PostgreSQL where finalize doesn't join them with its own.
func TestGuardStatements(t *testing.T) {
	id := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	at := time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)
	orders := guard.Status{Table: "orders", Key: "id", Column: "status", Terminal: guard.Names("PAID", "FAILED"), Touched: "touched_at",
		Set: map[string]any{"completed_at": guard.Now, "completed_by": guard.By, "done_at": guard.NowUTC}}
	charges := guard.Status{Schema: "billing", Table: "charges", Keys: []string{"id", "day", "created_at", "number", "code"}, Column: "state", Terminal: guard.Prefixes("DONE_")}
	jobs := guard.Status{Table: "jobs", Key: "id", Column: "state", Terminal: guard.Func(func(state string) bool { return state == "DONE" }), Touched: "touched_at"}
	for _, dialect := range []sqltx.Dialect{sqltx.Postgres, sqltx.SQLite} {
		t.Run(string(dialect), func(t *testing.T) {
			var f sqlgolden.File
			for _, tt := range []struct {
				title, state string
				guard        guard.Guard
				key          guard.Key
			}{
				{"Status: a text key, states by name", "PAID", orders, guard.Text("o1")},
				{"Status: a key of every other kind, states by prefix", "DONE_WELL", charges,
					guard.Composite(guard.UUID(id), guard.Date(at), guard.Time(at), guard.Int(1), guard.Bytes([]byte{1}))},
				{"Status: states by a function", "DONE", jobs, guard.Int(1)},
				{"Ledger", "PAID", guard.Ledger{}, guard.Int(1)},
			} {
				f.Section(tt.title)
				ref := guard.Ref{Aggregate: "order", Key: tt.key}
				to := transition(tt.state)
				for _, step := range []struct {
					title string
					run   func(tx *recordingTx) error
				}{
					{"Read", func(tx *recordingTx) error { _, err := tt.guard.(guard.Reader).Read(t.Context(), tx, ref); return err }},
					{"Claim", func(tx *recordingTx) error { _, err := tt.guard.Claim(t.Context(), tx, ref); return err }},
					{"Settle", func(tx *recordingTx) error { _, err := tt.guard.Settle(t.Context(), tx, ref, to); return err }},
				} {
					tx := &recordingTx{dialect: dialect}
					_ = step.run(tx) // nothing is behind it: what was sent counts
					f.Add(step.title, tx.sent...)
				}
			}
			f.Require(t, string(dialect))
		})
	}
}

// recordingTx is a transaction on no database: each row is of NULLs, and each statement hits one.
type recordingTx struct {
	dialect sqltx.Dialect
	sent    []string
}

func (r *recordingTx) Dialect() sqltx.Dialect { return r.dialect }

func (r *recordingTx) Exec(_ context.Context, sql string, _ ...any) (pgconn.CommandTag, error) {
	r.note(sql)
	return pgconn.NewCommandTag("UPDATE 1"), nil
}

func (r *recordingTx) Query(_ context.Context, sql string, _ ...any) (pgx.Rows, error) {
	r.note(sql)
	return nil, pgx.ErrNoRows
}

func (r *recordingTx) QueryRow(_ context.Context, sql string, _ ...any) pgx.Row {
	r.note(sql)
	return nullRow{}
}

func (r *recordingTx) Commit(context.Context) error   { return nil }
func (r *recordingTx) Rollback(context.Context) error { return nil }

func (r *recordingTx) note(sql string) { r.sent = append(r.sent, strings.TrimSpace(sql)) }

type nullRow struct{}

func (nullRow) Scan(...any) error { return nil }
