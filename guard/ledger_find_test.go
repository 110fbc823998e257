package guard_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// Who looks for an aggregate writes its key as people know it.
func TestLedgerFindsWhatPeopleWrite(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		l := guard.Ledger{}
		db.migrate(t, l)
		id := uuid.New()
		day := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
		refs := map[string]guard.Ref{
			"number":    {Aggregate: "batch", Key: guard.Int(42)},
			"text":      {Aggregate: "batch", Key: guard.Text("42")},
			"uuid":      {Aggregate: "order", Key: guard.UUID(id)},
			"slashed":   {Aggregate: "order", Key: guard.Text("a/b%c")},
			"composite": {Aggregate: "order", Key: guard.Composite(guard.Text("acme"), guard.Int(7))},
			"escaped":   {Aggregate: "order", Key: guard.Composite(guard.Text("a/b%c"), guard.Int(7))},
			"time":      {Aggregate: "order", Key: guard.Time(day)},
			"date":      {Aggregate: "order", Key: guard.Date(day)},
			"bytes":     {Aggregate: "order", Key: guard.Bytes([]byte{1, 255})},
		}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			none, err := l.Find(ctx, tx, "", "42")
			require.NoError(t, err, "of an empty ledger")
			require.Empty(t, none)
		})
		for name, ref := range refs {
			_, err := db.settle(t, l, ref, "STATE_"+name)
			require.NoError(t, err)
		}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			for _, look := range []struct {
				aggregate, key string
				found          []string
			}{
				{"batch", "42", []string{"number", "text"}}, {"batch", "i:42", []string{"number"}}, {"order", "42", nil}, {"", "42", []string{"number", "text"}},
				{"order", id.String(), []string{"uuid"}}, {"order", "{" + id.String() + "}", []string{"uuid"}}, {"", "acme/7", []string{"composite"}},
				{"order", "t:acme/i:7", []string{"composite"}}, {"order", "a/b%c", []string{"slashed"}}, {"order", refs["escaped"].Key.String(), []string{"escaped"}},
				{"order", "2026-01-31T08:00:00Z", []string{"time"}}, {"order", "2026-01-31", []string{"date"}}, {"order", "b:01ff", []string{"bytes"}},
				{"", "", nil}, {"", "\x00", nil}, {"", "1/2/3/4/5/6/7/8/9", nil}, {"nothing", "7", nil},
			} {
				entries, err := l.Find(ctx, tx, look.aggregate, look.key)
				require.NoError(t, err)
				require.Len(t, entries, len(look.found), "%+v", look)
				for _, e := range entries {
					require.Contains(t, refs, e.State[len("STATE_"):])
					require.Contains(t, look.found, e.State[len("STATE_"):])
					require.Equal(t, refs[e.State[len("STATE_"):]], e.Ref)
					require.WithinDuration(t, time.Now(), e.Provenance.At, time.Minute)
				}
			}
			names, err := l.Aggregates(ctx, tx)
			require.NoError(t, err)
			require.Equal(t, []string{"batch", "order"}, names)
			latest, err := l.Latest(ctx, tx, 3)
			require.NoError(t, err)
			require.Len(t, latest, 3)
			require.False(t, latest[0].Provenance.At.Before(latest[2].Provenance.At))
		})
	})
}

// What was finalized lately is counted by minute and trigger, up to a limit.
func TestLedgerCountsByMinute(t *testing.T) {
	t.Parallel()
	each(t, databases, func(t *testing.T, db *database) {
		l := guard.Ledger{}
		db.migrate(t, l)
		insert := `INSERT INTO endstate_ledger (aggregate, "key", state, "trigger", token, at) SELECT 'batch', '%[1]s' || i, 'DONE', '%[1]s', %[2]s, '%[3]s' FROM %[4]s`
		add := func(trigger, at string, n int) {
			token, series := "'"+uuid.NewString()+"'", fmt.Sprintf("generate_series(1, %d) i", n)
			if db.sqlite {
				series = fmt.Sprintf("(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) SELECT i FROM n)", n)
			}
			db.exec(t, fmt.Sprintf(insert, trigger, token, at, series))
		}
		add("old", "2026-01-01T00:00:59.999Z", 2)
		add("sweep", "2026-01-01T00:01:00.000Z", 3)
		add("threshold", "2026-01-01T00:01:59.000Z", 1)
		add("later", "2026-01-01T00:02:30.000Z", 1)
		start := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)
		want := map[time.Time]map[string]int64{start: {"sweep": 3, "threshold": 1}, start.Add(time.Minute): {"later": 1}}
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			list, whole, err := l.Minutes(ctx, tx, start)
			require.NoError(t, err)
			require.True(t, whole)
			require.Equal(t, want, list)
		})
		add("flood", "2026-01-01T00:03:00.000Z", 20_000)
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			list, whole, err := l.Minutes(ctx, tx, start)
			require.NoError(t, err)
			require.False(t, whole)
			require.Equal(t, map[time.Time]map[string]int64{start.Add(2 * time.Minute): {"flood": 20_000}}, list)
		})
	})
}
