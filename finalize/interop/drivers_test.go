// Package interop_test runs finalize on PostgreSQL through each of the usual drivers of database/sql.
package interop_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/driver/pgdriver"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// drivers open a database by its URL.
var drivers = map[string]func(url string) (*sql.DB, error){
	"pgx": func(url string) (*sql.DB, error) { return sql.Open("pgx", url) },
	"lib/pq": func(url string) (*sql.DB, error) {
		c, err := pq.NewConnector(url)
		if err != nil {
			return nil, err
		}
		return sql.OpenDB(c), nil
	},
	"pgdriver": func(url string) (*sql.DB, error) {
		return sql.OpenDB(pgdriver.NewConnector(pgdriver.WithDSN(url))), nil
	},
}

// service is a finalizer on one driver.
type service struct {
	*finalize.Finalizer[*sql.Tx]
	driver string
	db     *sql.DB
	url    string

	resolving, retries atomic.Int32
}

// each runs a test on every driver, with a database of its own.
func each(t *testing.T, run func(t *testing.T, s *service)) {
	for name := range drivers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, newService(t, name))
		})
	}
}

func newService(t *testing.T, driver string) *service {
	t.Helper()
	u, err := url.Parse(dbtest.Postgres(t))
	require.NoError(t, err)
	query := u.Query()
	query.Set("sslmode", "disable")
	u.RawQuery = query.Encode()
	db, err := drivers[driver](u.String())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(8)
	s := &service{driver: driver, db: db, url: u.String()}
	s.Finalizer, err = finalize.NewSQL(db, &finalize.Config{
		Aggregate: "batch",
		Guard: guard.All(
			guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
			guard.Ledger{},
		),
		Cache:  finalize.CacheConfig{Off: true},
		Logger: slog.New(slog.DiscardHandler),
		Trace: &finalize.Trace{
			Resolving: func(context.Context, finalize.Call, error) { s.resolving.Add(1) },
			Retry:     func(context.Context, finalize.Call, error, time.Duration) { s.retries.Add(1) },
		},
	})
	require.NoError(t, err)
	s.exec(t, "CREATE TABLE batches (id text PRIMARY KEY, status text)")
	s.exec(t, "CREATE TABLE notes (batch text)")
	require.NoError(t, s.Migrate(t.Context()))
	require.NoError(t, s.Check(t.Context()))
	return s
}

func (s *service) exec(t *testing.T, statement string) {
	t.Helper()
	_, err := s.db.ExecContext(t.Context(), statement)
	require.NoError(t, err, statement)
}

func (s *service) open(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		s.exec(t, "INSERT INTO batches VALUES ('"+id+"', 'PENDING')")
	}
}

func (s *service) count(t *testing.T, query string) (n int) {
	t.Helper()
	require.NoError(t, s.db.QueryRowContext(t.Context(), query).Scan(&n))
	return n
}

// requireOpen checks that nothing was written.
func (s *service) requireOpen(t *testing.T, id string) {
	t.Helper()
	require.Equal(t, 1, s.count(t, "SELECT count(*) FROM batches WHERE status = 'PENDING' AND id = '"+id+"'"))
	require.Zero(t, s.count(t, "SELECT count(*) FROM endstate_ledger WHERE \"key\" = 't:"+id+"'"))
	require.Zero(t, s.count(t, "SELECT count(*) FROM endstate_outbox WHERE aggregate_id = '"+id+"'"))
	require.Zero(t, s.count(t, "SELECT count(*) FROM notes WHERE batch = '"+id+"'"))
}

func (s *service) requireFinal(t *testing.T, id string) {
	t.Helper()
	require.Equal(t, 1, s.count(t, "SELECT count(*) FROM batches WHERE status = 'COMPLETE' AND id = '"+id+"'"))
	require.Equal(t, 1, s.count(t, "SELECT count(*) FROM endstate_ledger WHERE \"key\" = 't:"+id+"'"))
	require.Equal(t, 1, s.count(t, "SELECT count(*) FROM endstate_outbox WHERE aggregate_id = '"+id+"'"))
}

func completed() finalize.Outcome {
	return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{"ok":true}`)}}}
}

// complete is a callback that writes, runs statements, and completes.
func complete(id string, runs *int, statements ...string) finalize.Func[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
		*runs++
		for _, statement := range append([]string{"INSERT INTO notes VALUES ('" + id + "')"}, statements...) {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return finalize.Outcome{}, err
			}
		}
		return completed(), nil
	}
}

// sqlState is the SQLSTATE as a service reads it from its own driver's error.
func sqlState(err error) string {
	if e, ok := errors.AsType[pgdriver.Error](err); ok {
		return e.Field('C')
	}
	var e interface{ SQLState() string }
	if errors.As(err, &e) {
		return e.SQLState()
	}
	return ""
}

func TestEveryDoor(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.open(t, "do", "tx", "settle", "many1", "many2", "early")
		runs := 0
		r, err := s.Do(t.Context(), guard.Text("do"), "threshold", complete("do", &runs))
		require.NoError(t, err)
		require.True(t, r.Won)
		again, err := s.Do(t.Context(), guard.Text("do"), "sweep", complete("do", &runs))
		require.NoError(t, err)
		require.False(t, again.Won)
		r.Won = false
		require.Equal(t, r, again, "a loser's receipt is the winner's")
		require.Equal(t, 1, runs)
		s.requireFinal(t, "do")

		tx, err := s.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		r, err = s.DoTx(t.Context(), tx, guard.Text("tx"), "threshold", complete("tx", &runs))
		require.NoError(t, err)
		require.True(t, r.Won)
		_, err = s.DoTx(t.Context(), tx, guard.Text("early"), "threshold", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{}, finalize.ErrNotReady
		})
		require.ErrorIs(t, err, finalize.ErrNotReady)
		require.NoError(t, tx.Commit())
		s.requireFinal(t, "tx")
		s.requireOpen(t, "early")

		r, err = s.Settle(t.Context(), guard.Text("settle"), "threshold", completed())
		require.NoError(t, err)
		require.True(t, r.Won)
		s.requireFinal(t, "settle")
		results, err := s.SettleMany(t.Context(), "sweep", []finalize.Item{
			{Key: guard.Text("many1"), Outcome: completed()}, {Key: guard.Text("settle"), Outcome: completed()}, {Key: guard.Text("many2"), Outcome: completed()},
		})
		require.NoError(t, err)
		require.True(t, results[0].Receipt.Won)
		require.False(t, results[1].Receipt.Won)
		require.True(t, results[2].Receipt.Won)
		_, err = s.Settle(t.Context(), guard.Text("nowhere"), "threshold", completed())
		require.ErrorIs(t, err, guard.ErrNotFound)
	})
}

func TestManyTriggersOneWinner(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.open(t, "b1")
		var won atomic.Int32
		var group sync.WaitGroup
		for i := range 40 {
			group.Go(func() {
				runs := 0
				r, err := s.Do(t.Context(), guard.Text("b1"), finalize.Trigger(fmt.Sprint("trigger ", i)), complete("b1", &runs))
				if err != nil {
					t.Error(err)
				}
				if r.Won {
					won.Add(1)
				}
			})
		}
		group.Wait()
		require.EqualValues(t, 1, won.Load())
		s.requireFinal(t, "b1")
	})
}

// A constraint that is checked at COMMIT: the server's refusal is its word that nothing was committed.
func TestADeferredConstraint(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.exec(t, "CREATE TABLE essays (batch text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
		s.exec(t, "INSERT INTO essays VALUES ('taken')")
		s.open(t, "b1")
		runs := 0
		_, err := s.Do(t.Context(), guard.Text("b1"), "threshold", complete("b1", &runs, "INSERT INTO essays VALUES ('taken')"))
		require.Equal(t, "23505", sqlState(err), "%v", err)
		require.NotErrorIs(t, err, finalize.ErrOutcomeUnknown)
		require.NotErrorIs(t, err, finalize.ErrEventConflict)
		require.Equal(t, 1, runs)
		require.Zero(t, s.resolving.Load())
		s.requireOpen(t, "b1")
		r, err := s.Do(t.Context(), guard.Text("b1"), "sweep", complete("b1", &runs))
		require.NoError(t, err)
		require.True(t, r.Won)
	})
}

func TestAnEventConflict(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.open(t, "b1")
		earlier := uuid.New()
		tx, err := s.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		_, err = outbox.Put(t.Context(), endstate.PostgresTx(tx), outbox.Event{ID: earlier, AggregateType: "x", AggregateID: "x", Type: "x", Payload: []byte(`1`), DedupKey: "held"})
		require.NoError(t, err)
		require.NoError(t, tx.Commit())
		out := completed()
		out.Events[0].DedupKey = "held"
		_, err = s.Settle(t.Context(), guard.Text("b1"), "threshold", out)
		require.ErrorIs(t, err, finalize.ErrEventConflict)
		var conflict *finalize.EventConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, earlier, conflict.HeldBy)
		s.requireOpen(t, "b1")
	})
}

// A transaction that the database breaks off is run again.
func TestASerializationFailure(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.open(t, "b1")
		s.exec(t, "CREATE SEQUENCE tries")
		runs := 0
		r, err := s.Do(t.Context(), guard.Text("b1"), "threshold", complete("b1", &runs,
			`DO $$ BEGIN IF nextval('tries') < 3 THEN RAISE EXCEPTION 'again' USING ERRCODE = '40001'; END IF; END $$`))
		require.NoError(t, err)
		require.True(t, r.Won)
		require.Equal(t, 3, runs)
		require.EqualValues(t, 2, s.retries.Load())
		s.requireFinal(t, "b1")
		require.Equal(t, 1, s.count(t, "SELECT count(*) FROM notes"))
	})
}

// What a trigger makes of the row, and a row that takes no update.
func TestWhatTheRowSays(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		when, body string
		want       error
	}{
		"BEFORE": {"BEFORE", "NEW.status := 'NEEDS_REVIEW'; RETURN NEW;", guard.ErrRewritten},
		"AFTER":  {"AFTER", "UPDATE batches SET status = 'NEEDS_REVIEW' WHERE id = NEW.id AND status = 'COMPLETE'; RETURN NULL;", guard.ErrRewritten},
		"NULL":   {"BEFORE", "RETURN NULL;", guard.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, s *service) {
				s.open(t, "b1")
				s.exec(t, "CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "+tt.body+" END $$")
				s.exec(t, "CREATE TRIGGER meddle "+tt.when+" UPDATE ON batches FOR EACH ROW EXECUTE FUNCTION meddle()")
				runs := 0
				_, err := s.Do(t.Context(), guard.Text("b1"), "threshold", complete("b1", &runs))
				require.ErrorIs(t, err, tt.want)
				require.Equal(t, 1, runs)
				_, err = s.Settle(t.Context(), guard.Text("b1"), "threshold", completed())
				require.ErrorIs(t, err, tt.want)
				require.Zero(t, s.retries.Load())
				s.requireOpen(t, "b1")
			})
		})
	}
}

// Sessions that began while the database took no writes are dropped, and the call goes on with another one.
func TestReadOnlySessions(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, s *service) {
		s.open(t, "b1", "b2")
		database := fmt.Sprintf("%q", mustParse(t, s.url).Path[1:])
		s.exec(t, "ALTER DATABASE "+database+" SET default_transaction_read_only = on")
		s.db.SetMaxIdleConns(0) // what is open from now on can only read
		s.db.SetMaxIdleConns(4)
		stale := make([]*sql.Conn, 3)
		for i := range stale {
			var err error
			stale[i], err = s.db.Conn(t.Context())
			require.NoError(t, err)
		}
		_, err := stale[0].ExecContext(t.Context(), "SET default_transaction_read_only = off")
		require.NoError(t, err)
		_, err = stale[0].ExecContext(t.Context(), "ALTER DATABASE "+database+" RESET default_transaction_read_only")
		require.NoError(t, err)
		_, err = stale[0].ExecContext(t.Context(), "SET default_transaction_read_only = on")
		require.NoError(t, err)
		for _, conn := range stale {
			require.NoError(t, conn.Close())
		}
		runs := 0
		r, err := s.Do(t.Context(), guard.Text("b1"), "threshold", complete("b1", &runs))
		require.NoError(t, err)
		require.True(t, r.Won)
		stales := 3
		if s.driver == "lib/pq" {
			stales = 0 // it begins READ WRITE, whatever the session's default
		}
		require.EqualValues(t, stales, s.retries.Load(), "one for each stale connection")
		r, err = s.Settle(t.Context(), guard.Text("b2"), "threshold", completed())
		require.NoError(t, err)
		require.True(t, r.Won)
	})
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	require.NoError(t, err)
	return u
}
