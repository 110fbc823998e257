package guard_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
)

// Rows that were terminal before the ledger was there are final to it afterwards, under the keys that a service knows them by.
func TestBackfill(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql"}, func(t *testing.T, db *database) {
		id := uuid.MustParse("6BA7B810-9DAD-11D1-80B4-00C04FD430C8")
		db.exec(t, `CREATE TABLE jobs (tenant uuid, name varchar(2000), n int, status text, ended timestamp, PRIMARY KEY (tenant, name, n))`)
		names := []string{"plain", "a/b", "50%", "#1", "it's \\ \"quoted\"", "日本語", "a%2Fb"}
		for i, name := range names {
			db.exec(t, "INSERT INTO jobs VALUES ($1::text::uuid, $2, $3, 'COMPLETE_STABLE', '2025-11-15 12:00')", id.String(), name, -i)
		}
		db.exec(t, "INSERT INTO jobs VALUES ($1::text::uuid, 'open', 1, 'PENDING', NULL), ($1::text::uuid, 'none', 1, NULL, NULL), ($1::text::uuid, '', 1, 'ERROR', NULL), ($1::text::uuid, $2, 1, 'ERROR', NULL)", id.String(), strings.Repeat("x", 1500))
		status := guard.Status{Table: "jobs", Keys: []string{"tenant", "name", "n"}, Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
		var ledger guard.Ledger
		db.in(t, func(ctx context.Context, tx endstate.Tx) { require.NoError(t, ledger.Migrate(ctx, tx)) })

		key := func(i int) guard.Key {
			return guard.Composite(guard.UUID(id), guard.Text(names[i]), guard.Int(int64(-i)))
		}
		token := uuid.New()
		db.in(t, func(ctx context.Context, tx endstate.Tx) { // one has an entry, which stays
			_, err := ledger.Settle(ctx, tx, guard.Ref{Aggregate: "job", Key: key(0)}, guard.Transition{State: "COMPLETE_STABLE", Trigger: "first", Token: token})
			require.NoError(t, err)
		})
		var total guard.BackfillResult
		b := guard.Backfill{Status: status, Aggregate: "job", At: "ended", Limit: 2}
		for {
			var r guard.BackfillResult
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				var err error
				r, err = ledger.Backfill(ctx, tx, b)
				require.NoError(t, err)
			})
			total.Rows, total.Filled, total.Refused = total.Rows+r.Rows, total.Filled+r.Filled, total.Refused+r.Refused
			if b.After = r.Next; b.After == nil {
				break
			}
		}
		require.Equal(t, guard.BackfillResult{Rows: int64(len(names)) + 2, Filled: int64(len(names)) - 1, Refused: 2}, total)
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			for i := range names {
				rec, err := guard.All(status, ledger).Claim(ctx, tx, guard.Ref{Aggregate: "job", Key: key(i)})
				require.NoError(t, err, names[i])
				require.True(t, rec.Final)
				if i == 0 {
					require.Equal(t, "first", rec.Provenance.Trigger)
					continue
				}
				require.Equal(t, guard.BackfillTrigger, rec.Provenance.Trigger)
				require.Equal(t, 2025, rec.Provenance.At.Year())
			}
		})
	})
}

// Pages follow one another in the order of the key column's type, whatever the column is called.
func TestBackfillPagesByColumnsOfAnyName(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.migrate(t, guard.Ledger{})
	for _, column := range []string{"key", "usable", "at", "parts", "n", "batch"} {
		db.exec(t, fmt.Sprintf(`CREATE TABLE batch_%[1]s (%[1]q bigint PRIMARY KEY, status text)`, column))
		db.exec(t, fmt.Sprintf(`INSERT INTO batch_%s SELECT n, 'COMPLETE' FROM generate_series(7, 13) AS n`, column))
		b := guard.Backfill{Status: guard.Status{Table: "batch_" + column, Key: column, Column: "status", Terminal: terminal}, Aggregate: column, Limit: 2}
		var filled int64
		for {
			var r guard.BackfillResult
			db.in(t, func(ctx context.Context, tx endstate.Tx) {
				var err error
				r, err = guard.Ledger{}.Backfill(ctx, tx, b)
				require.NoError(t, err)
			})
			filled += r.Filled
			if b.After = r.Next; b.After == nil {
				break
			}
		}
		require.EqualValues(t, 7, filled, column)
	}
}

func TestBackfillRefuses(t *testing.T) {
	t.Parallel()
	status := guard.Status{Table: "jobs", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE")}
	each(t, []string{"pgx", "sqlite-wal"}, func(t *testing.T, db *database) {
		db.exec(t, "CREATE TABLE jobs (id float, status text)")
		db.in(t, func(ctx context.Context, tx endstate.Tx) {
			_, err := guard.Ledger{}.Backfill(ctx, tx, guard.Backfill{Status: status, Aggregate: "job"})
			if db.sqlite {
				require.ErrorIs(t, err, guard.ErrConfig)
				return
			}
			require.ErrorIs(t, err, guard.ErrSchema)
			require.ErrorContains(t, err, "double precision")
			_, err = guard.Ledger{}.Backfill(ctx, tx, guard.Backfill{Status: status, Aggregate: "job", At: "ended"})
			require.ErrorContains(t, err, `no column "ended"`)
			_, err = guard.Ledger{}.Backfill(ctx, tx, guard.Backfill{Status: status})
			require.ErrorIs(t, err, guard.ErrConfig)
			byFunc := status
			byFunc.Terminal = guard.Func(func(string) bool { return true })
			_, err = guard.Ledger{}.Backfill(ctx, tx, guard.Backfill{Status: byFunc, Aggregate: "job"})
			require.ErrorIs(t, err, guard.ErrConfig)
		})
	})
}
