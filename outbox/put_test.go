package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

var writer = &outbox.Writer{}

func TestPutKeepsWhatItIsGiven(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) { requireKept(t, db) })
}

// F22: every way that pgx has to send a statement gives the same rows.
func TestPutInEveryExecMode(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			url += map[bool]string{true: "&", false: "?"}[strings.Contains(url, "?")] + "default_query_exec_mode=" + mode
			db := outboxdbtest.On(t, url)
			db.Migrate(t, *writer)
			requireKept(t, db)
			db.Exec(t, "DELETE FROM endstate_outbox")
			handle := stdlib.OpenDBFromPool(dbtest.PoolOn(t, url)) // and not the run's driver, which doesn't know these modes
			t.Cleanup(func() { require.NoError(t, handle.Close()) })
			requireKept(t, outboxdbtest.Over(handle, url))
		})
	}
}

// requireKept puts events that a database might change, and reads them back.
func requireKept(t *testing.T, db *database) {
	t.Helper()
	binary := make([]byte, 512)
	for i := range binary {
		binary[i] = byte(i)
	}
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.FixedZone("", 5*3600+1800))
	payloads := map[string]outbox.Event{
		"binary":                  {ContentType: "application/octet-stream", Payload: binary},
		"empty":                   {ContentType: "text/plain", Payload: []byte{}},
		"nil":                     {ContentType: "text/plain"},
		"keys twice, and ordered": {Payload: []byte(`{ "b":1, "a":2,"b" : 3 }` + "\n")},
		"escaped NUL":             {Payload: []byte(`"\u0000"`)},
		"lone surrogate":          {Payload: []byte(`["\ud800", "\udead"]`)},
		"numbers":                 {Payload: []byte(`[1e400, 0.10, 123456789012345678901234567890, -0]`)},
		"invalid UTF-8":           {ContentType: "application/octet-stream", Payload: []byte("\xff\xfe")},
		"megabyte":                {ContentType: "text/plain", Payload: []byte(strings.Repeat("x", 1<<20))},
		"vendor JSON":             {ContentType: "application/vnd.acme+json; charset=utf-8", Payload: []byte("null")},
		"backslashes":             {ContentType: "text/plain", Payload: []byte(`\x00 \\ '' "`)},
	}
	var events []outbox.Event
	for name, e := range payloads {
		e.AggregateType, e.AggregateID, e.Type = `batch "x"`, "i:1/t:a'b", name
		e.Headers = map[string]string{"traceparent": "00-ab-cd-01", `quo"te\`: "<&> é \u2028 '", "": "empty key", "empty": ""}
		e.OccurredAt, e.SchemaVersion, e.DedupKey, e.ID = at, 7, "dedup '"+name, uuid.New()
		events = append(events, e)
	}
	results := db.Put(t, events...)
	stored := db.Stored(t, *writer)
	require.Len(t, stored, len(events))
	for i, want := range events {
		require.Equal(t, outbox.Result{ID: want.ID, Inserted: true}, results[i])
		if want.ContentType == "" {
			want.ContentType = "application/json"
		}
		want.OccurredAt = at.UTC().Truncate(time.Microsecond)
		require.Equal(t, string(want.Payload), string(stored[i].Payload), want.Type)
		want.Payload = stored[i].Payload
		require.Equal(t, want, stored[i])
	}
}

func TestPutFillsInDefaults(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		results := db.Put(t, event("comment.added", ""), event("comment.added", ""))
		require.NotEqual(t, results[0].ID, results[1].ID)
		stored := db.Stored(t, *writer)
		require.Len(t, stored, 2, "without a dedup key two like events are two")
		for i, e := range stored {
			require.Equal(t, outbox.Result{ID: e.ID, Inserted: true}, results[i])
			require.EqualValues(t, 7, e.ID.Version(), "a UUIDv7")
			require.Equal(t, "application/json", e.ContentType)
			require.Equal(t, 1, e.SchemaVersion)
			require.Empty(t, e.Headers)
			require.WithinDuration(t, time.Now(), e.OccurredAt, time.Minute)
		}
		require.Equal(t, 2, outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox WHERE dedup_key IS NULL AND created_at IS NOT NULL"))
		require.Less(t, stored[0].ID.String(), stored[1].ID.String(), "ids of one call are in its order")
		require.Empty(t, db.Put(t), "no events")
	})
}

func TestPutReportsWhoHoldsAKey(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		first := db.Put(t, event("first", "k1"), event("second", "k2"))
		same := event("same id", "k3")
		same.ID = first[0].ID
		both := event("both", "k2") // the key is held by one event and the id by another
		both.ID = first[0].ID
		fresh := event("fresh", "k4")
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			results, err := outbox.Put(ctx, tx, event("a", "k2"), fresh, event("b", "k1"), same)
			require.NoError(t, err)
			require.Equal(t, []bool{false, true, false, false}, inserted(results))
			require.Equal(t, []uuid.UUID{first[1].ID, uuid.Nil, first[0].ID, first[0].ID}, heldBy(results))
			// What this transaction has put itself holds its key, too.
			again, err := outbox.Put(ctx, tx, event("c", "k4"), both)
			require.NoError(t, err)
			require.Equal(t, []bool{false, false}, inserted(again))
			require.Equal(t, []uuid.UUID{results[1].ID, first[1].ID}, heldBy(again))
			// The transaction is usable, and commits.
			_, err = tx.Exec(ctx, "UPDATE endstate_outbox SET schema_version = 2 WHERE type = 'fresh'")
			require.NoError(t, err)
		})
		require.Equal(t, []string{"first", "second", "fresh"}, types(db.Stored(t, *writer)))
		require.Equal(t, 2, db.Stored(t, *writer)[2].SchemaVersion)
		require.Equal(t, string(event("", "").Payload), string(db.Stored(t, *writer)[0].Payload), "the earlier event is as it was")
	})
}

func inserted(results []outbox.Result) (list []bool) {
	for _, r := range results {
		list = append(list, r.Inserted)
	}
	return list
}

func heldBy(results []outbox.Result) (list []uuid.UUID) {
	for _, r := range results {
		list = append(list, r.HeldBy)
	}
	return list
}

func types(events []outbox.Event) (list []string) {
	for _, e := range events {
		list = append(list, e.Type)
	}
	return list
}

func TestPutIsUndoneByARollback(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		undone := errors.New("undone")
		require.ErrorIs(t, db.Try(func(ctx context.Context, tx endstate.Tx) error {
			results, err := outbox.Put(ctx, tx, event("completed", "k"))
			require.NoError(t, err)
			require.True(t, results[0].Inserted)
			return undone
		}), undone)
		require.Zero(t, db.Count(t))
		require.True(t, db.Put(t, event("completed", "k"))[0].Inserted, "its key is free again")
	})
}

// One event or ten thousand: some in, some held, in the call's order.
func TestPutManyEvents(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		for _, n := range []int{1, 2, 999, 1000, 1001, 10_000} {
			db.Exec(t, "DELETE FROM endstate_outbox")
			var earlier []outbox.Event
			for i := 0; i < n; i += 3 {
				earlier = append(earlier, event("earlier", fmt.Sprint("k", i)))
			}
			holders := db.Put(t, earlier...)
			events := make([]outbox.Event, n)
			want := []string{}
			for i := range events {
				events[i] = event(fmt.Sprint("e", i), fmt.Sprint("k", i))
				if i%3 != 0 {
					want = append(want, events[i].Type)
				}
			}
			results := db.Put(t, events...)
			require.Len(t, results, n)
			for i, r := range results {
				require.Equal(t, i%3 != 0, r.Inserted, "event %d of %d", i, n)
				if i%3 == 0 {
					require.Equal(t, holders[i/3].ID, r.HeldBy, "event %d of %d", i, n)
				}
			}
			require.Equal(t, want, types(db.Stored(t, *writer))[len(earlier):], "seq follows the call's order")
		}
	})
}

// counter counts the statements that pgx sends.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestPutTakesFewStatements(t *testing.T) {
	t.Parallel()
	var sent counter
	db := outboxdbtest.On(t, dbtest.Postgres(t), func(c *pgxpool.Config) { c.ConnConfig.Tracer = &sent })
	db.Migrate(t, *writer)
	for _, tt := range []struct{ events, statements int }{{1, 1}, {4, 1}, {5, 1}, {1000, 1}, {1001, 2}, {10_000, 10}} {
		events := make([]outbox.Event, tt.events)
		for i := range events {
			events[i] = event("e", fmt.Sprint(tt.events, "/", i))
		}
		for _, more := range []int{0, 1} { // the second time all are held, which takes a look at who holds them
			db.In(t, func(ctx context.Context, tx endstate.Tx) {
				before := sent.n.Load()
				_, err := outbox.Put(ctx, tx, events...)
				require.NoError(t, err)
				require.EqualValues(t, tt.statements*(1+more), sent.n.Load()-before, "%d events", tt.events)
			})
		}
	}
}

// A held event leaves no row version behind, dead or alive. (Its number in the sequence is skipped, as PostgreSQL takes that
// first, and one in 32 such numbers is logged.)
func TestPutWritesNoRowForAHeldEvent(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		written := "SELECT total_changes()"
		if !db.SQLite {
			written = "SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::int FROM pg_stat_xact_user_tables"
		}
		db.Put(t, event("completed", "k"))
		for range 40 {
			db.In(t, func(ctx context.Context, tx endstate.Tx) {
				var before, after int
				require.NoError(t, tx.QueryRow(ctx, written).Scan(&before))
				_, err := outbox.Put(ctx, tx, event("completed", "k"))
				require.NoError(t, err)
				require.NoError(t, tx.QueryRow(ctx, written).Scan(&after))
				require.Equal(t, before, after)
			})
		}
		require.Equal(t, 1, db.Count(t))
	})
}

// Of two transactions that put one dedup key at once, the second waits, and then is told.
func TestPutWaitsForAnUncommittedKey(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		for _, commit := range []bool{true, false} {
			key := fmt.Sprint("k", commit)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			first, err := db.Begin(ctx)
			require.NoError(t, err)
			held, err := outbox.Put(ctx, first, event("first", key))
			require.NoError(t, err)

			second := make(chan outbox.Result, 1)
			tx, err := db.Begin(ctx)
			require.NoError(t, err)
			var pid int
			if !db.SQLite {
				require.NoError(t, tx.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid))
			}
			go func() {
				defer close(second)
				defer func() { _ = tx.Rollback(ctx) }()
				results, err := outbox.Put(ctx, tx, event("second", key))
				if err == nil {
					err = tx.Commit(ctx)
				}
				if err == nil {
					second <- results[0]
				}
			}()
			for !db.SQLite && !outboxdbtest.One[bool](t, db, "SELECT cardinality(pg_blocking_pids($1)) > 0", pid) {
				require.NoError(t, ctx.Err(), "the second Put does not wait")
			}
			if commit {
				require.NoError(t, first.Commit(ctx))
			} else {
				require.NoError(t, first.Rollback(ctx))
			}
			got, ok := <-second
			require.True(t, ok, "the second Put failed")
			require.Equal(t, !commit, got.Inserted)
			if commit {
				require.Equal(t, held[0].ID, got.HeldBy)
			}
			require.Equal(t, 1, outboxdbtest.One[int](t, db, "SELECT count(*) FROM endstate_outbox WHERE dedup_key = $1", key))
		}
	})
}

func TestPutRacesForOneKey(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		const racers = 24
		results := make([]outbox.Result, racers)
		errs := make([]error, racers)
		dbtest.AtOnce(racers, func(i int) {
			errs[i] = retried(db, func(ctx context.Context, tx endstate.Tx) error {
				r, err := outbox.Put(ctx, tx, event(fmt.Sprint(i), "k"))
				if err == nil {
					results[i] = r[0]
				}
				return err
			})
		})
		require.NoError(t, errors.Join(errs...))
		winner := slices.IndexFunc(results, func(r outbox.Result) bool { return r.Inserted })
		require.GreaterOrEqual(t, winner, 0)
		for i, r := range results {
			if i != winner {
				require.Equal(t, outbox.Result{ID: r.ID, HeldBy: results[winner].ID}, r)
			}
		}
		require.Equal(t, []string{fmt.Sprint(winner)}, types(db.Stored(t, *writer)))
	})
}

// In a caller's stricter transaction a key that was taken meanwhile is 40001.
func TestPutUnderStricterIsolation(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		ctx := t.Context()
		late, err := db.Pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
		require.NoError(t, err)
		_, err = late.Exec(ctx, "SELECT FROM endstate_outbox") // its snapshot is taken
		require.NoError(t, err)
		db.Put(t, event("first", string(level)))
		_, err = outbox.Put(ctx, late, event("second", string(level)))
		require.Equal(t, "40001", sqltx.State(err), "%v", err)
		require.NoError(t, late.Rollback(ctx))
	}
}

// A transaction that has ended or is aborted, a table that isn't there, a context that is over: errors, and nothing written.
func TestPutFails(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		require.Error(t, db.Try(func(ctx context.Context, tx endstate.Tx) error {
			require.NoError(t, tx.Rollback(ctx))
			_, err := outbox.Put(ctx, tx, event("completed", "k"))
			return err
		}))
		if !db.SQLite {
			err := db.Try(func(ctx context.Context, tx endstate.Tx) error {
				_, err := tx.Exec(ctx, "SELECT 1 / 0")
				require.Error(t, err)
				_, err = outbox.Put(ctx, tx, event("completed", "k"))
				return err
			})
			require.Equal(t, sqltx.FailedTransaction, sqltx.State(err), "%v", err)
		}
		err := db.Try(func(ctx context.Context, tx endstate.Tx) error {
			_, err := outbox.Writer{Table: "nowhere"}.Put(ctx, tx, event("completed", "k"))
			return err
		})
		require.True(t, sqltx.Incomplete(err), "%v", err)
		require.ErrorIs(t, db.Try(func(ctx context.Context, tx endstate.Tx) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			_, err := outbox.Put(ctx, tx, event("completed", "k"))
			return err
		}), context.Canceled)
		require.Zero(t, db.Count(t))
	})
	_, err := outbox.Put(t.Context(), nil, event("completed", "k"))
	require.ErrorContains(t, err, "tx is nil")
}
