package audit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/audit"
)

// What says that an event was published is judged by the column's type, or stated; what can't be judged is refused, since
// figures that go by a guess look like any others.
func TestPublished(t *testing.T) {
	t.Parallel()
	soon := time.Now().Add(100 * time.Hour).UTC().Format(time.RFC3339)
	each(t, func(t *testing.T, db *database) {
		for i, tt := range []struct {
			pg, sqlite string // the column's definition
			condition  string
			values     []any
			published  int64 // -1: refused
		}{
			{"timestamptz", "TEXT", "p", []any{nil, "2025-11-15 12:00:00"}, 1},
			{"timestamptz", "datetime", "p", []any{nil, "1970-01-01 00:00:00"}, -1},
			{"timestamptz", "TEXT", "p", []any{nil, "0001-01-01 00:00:00"}, -1},
			{"timestamptz", "TEXT", "p", []any{nil, soon}, -1},
			{"timestamptz NOT NULL", "TEXT NOT NULL", "p", []any{"2025-11-15 12:00:00"}, -1},
			{"timestamptz DEFAULT 'epoch'", "TEXT DEFAULT '1970-01-01'", "p", []any{nil}, -1},
			{"timestamptz DEFAULT NULL", "TEXT DEFAULT NULL", "p", []any{"2025-11-15 12:00:00"}, 1},
			{"timestamp NOT NULL", "TEXT NOT NULL", "p <> '1970-01-01 00:00:00'", []any{"1970-01-01 00:00:00", "2025-11-15 12:00:00"}, 1},
			{"text", "TEXT", "p", []any{"PENDING", "SENT"}, -1},
			{"text NOT NULL", "TEXT NOT NULL", "p = SENT", []any{"PENDING", "SENT"}, 1},
			{"text", "TEXT", "p NOT IN (PENDING)", []any{nil, "PENDING", "SENT"}, 1},
			{"smallint NOT NULL", "INTEGER NOT NULL", "p", []any{0, 1}, -1},
			{"smallint", "INTEGER", "p", []any{nil, 1}, -1},
			{"smallint NOT NULL", "INTEGER NOT NULL", "p = 1", []any{0, 1}, 1},
			{"smallint NOT NULL", "INTEGER NOT NULL", "p IN ('1', 2)", []any{0, 1, 2}, 2},
			{"smallint NOT NULL", "NOT NULL", "p <> 0", []any{0, 1}, 1},
			{"boolean NOT NULL", "BOOLEAN NOT NULL", "p", []any{false, true}, 1},
			{"boolean", "bool", "p = false", []any{nil, false, true}, 1},
			{"text", "TEXT", "p IS NOT NULL", []any{nil, "x"}, 1},
			{"text", "TEXT", "p IS NULL", []any{nil, "x"}, 1},
			{"json", "TEXT", "p = 1", []any{"1"}, -1},
		} {
			if db.name == "sqlite" && tt.pg == "json" {
				continue // whatever it holds can be compared there
			}
			kind := tt.pg
			if !db.postgres() {
				kind = tt.sqlite
			}
			table := fmt.Sprint("outbox", i)
			db.exec(t, "CREATE TABLE "+table+" (aggregate_id text, event_type text, created_at "+map[bool]string{true: "timestamptz", false: "text"}[db.postgres()]+", p "+kind+")")
			for _, v := range tt.values {
				db.insert(t, "INSERT INTO "+table+" (aggregate_id, event_type, created_at, p) VALUES ('b', 'x', NULL, $1)", []any{v})
			}
			r, err := db.try(t.Context(), audit.Config{Table: table, Published: tt.condition})
			if tt.published < 0 {
				require.ErrorIs(t, err, audit.ErrSchema, "%d: %+v", i, tt)
				require.ErrorContains(t, err, `column "p"`)
				continue
			}
			require.NoError(t, err, "%d: %+v", i, tt)
			require.Equal(t, tt.published, r.PublishedEvents, "%d: %+v", i, tt)
			require.Equal(t, max(tt.published-1, 0), r.Published, "%d: %+v", i, tt)
		}
	})
	for _, condition := range []string{"p = 1 OR true", "p > 1", "p = NULL"} {
		_, err := audit.Run(t.Context(), nil, audit.Config{Published: condition})
		require.ErrorIs(t, err, audit.ErrConfig, condition)
		_, err = audit.PublishedColumn(condition)
		require.ErrorIs(t, err, audit.ErrConfig, condition)
	}
	column, err := audit.PublishedColumn(`"Sent at" IS NOT NULL`)
	require.NoError(t, err)
	require.Equal(t, "Sent at", column)
}
