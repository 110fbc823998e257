package relay

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// The tests of this file go through the protocol step by step. Each is about one condition of its proof, and loses, repeats or
// halves something without that.

// script is a term that is driven by hand, and what it published.
type script struct {
	*term
	t         *testing.T
	pool      *pgxpool.Pool
	published []string // aggregate id and type
}

func newScript(t *testing.T, change func(*Config)) *script {
	return newScriptOn(t, dbtest.Pool(t), change)
}

func newScriptOn(t *testing.T, pool *pgxpool.Pool, change func(*Config)) *script {
	s := &script{t: t, pool: pool}
	s.in(func(ctx context.Context, tx pgx.Tx) error { return outbox.Writer{}.Migrate(ctx, tx) })
	s.next(change)
	return s
}

// next goes on with a new term, as another relay would.
func (s *script) next(change func(*Config)) {
	cfg := &Config{Logger: slog.New(slog.DiscardHandler), LeaseTTL: time.Hour, BatchSize: 80}
	if change != nil {
		change(cfg)
	}
	r, err := New(s.pool, outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
		s.published = append(s.published, e.AggregateID+" "+e.Type)
		return nil
	}), cfg)
	require.NoError(s.t, err)
	s.work(r)
}

// work gives a relay all partitions, with a term that nothing but the script drives.
func (s *script) work(r *Relay) {
	l := &lease{id: newToken()}
	l.ctx, l.cancel = context.WithCancelCause(s.t.Context())
	require.NoError(s.t, r.store.join(s.t.Context(), l.id, r.destination()))
	s.term = newTerm(r, l)
	require.NoError(s.t, s.balance(s.t.Context()))
	require.Equal(s.t, outbox.Partitions, s.owned)
}

// step takes one step of each kind.
func (s *script) step() {
	s.t.Helper()
	s.balanced = time.Now()
	_, err := s.round(s.t.Context())
	require.NoError(s.t, err)
}

func (s *script) in(f func(ctx context.Context, tx pgx.Tx) error) {
	s.t.Helper()
	require.NoError(s.t, pgx.BeginFunc(s.t.Context(), s.pool, func(tx pgx.Tx) error { return f(s.t.Context(), tx) }))
}

// begin begins a transaction that has its id.
func (s *script) begin() pgx.Tx {
	s.t.Helper()
	tx, err := s.pool.Begin(s.t.Context())
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
	_, err = tx.Exec(s.t.Context(), "SELECT pg_current_xact_id()")
	require.NoError(s.t, err)
	return tx
}

// put writes events of the aggregate "a", and so of one partition.
func (s *script) put(tx pgx.Tx, types ...string) {
	s.t.Helper()
	var events []outbox.Event
	for _, kind := range types {
		events = append(events, outbox.Event{AggregateType: "order", AggregateID: "a", Type: kind, Payload: []byte("{}")})
	}
	_, err := outbox.Put(s.t.Context(), tx, events...)
	require.NoError(s.t, err)
}

func (s *script) putNow(types ...string) {
	s.t.Helper()
	s.in(func(_ context.Context, tx pgx.Tx) error { s.put(tx, types...); return nil })
}

func (s *script) commit(tx pgx.Tx) {
	s.t.Helper()
	require.NoError(s.t, tx.Commit(s.t.Context()))
}

func (s *script) exec(statement string, args ...any) {
	s.t.Helper()
	_, err := s.pool.Exec(s.t.Context(), statement, args...)
	require.NoError(s.t, err)
}

func (s *script) requirePublished(types ...string) {
	s.t.Helper()
	var want []string
	for _, kind := range types {
		want = append(want, "a "+kind)
	}
	require.Equal(s.t, want, s.published)
}

// F35: a row whose transaction was in progress is in the snapshot's list of those.
func TestALateRowInTheList(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	late := s.begin()
	s.put(late, "late")
	s.putNow("1")
	s.begin() // so that the late one isn't the oldest there is
	s.putNow("2")
	for range 3 {
		s.step()
	}
	s.requirePublished("1", "2")
	s.commit(late)
	s.step()
	s.step()
	s.requirePublished("1", "2", "late")
}

// F35: a row whose transaction has an id that the snapshot takes for one to come: xmax is one past the last that has completed.
func TestALateRowBeyondXmax(t *testing.T) {
	t.Parallel()
	s := newScriptOn(t, dbtest.PoolOn(t, dbtest.StartPostgres(t, "autovacuum=off").URL()), nil) // on a server where nobody else moves xmax
	u := s.begin()
	late := s.begin()
	s.put(late, "late")
	s.put(u, "2")
	s.commit(u)
	var beyond bool
	require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT max(backend_xid::text::bigint) >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint FROM pg_stat_activity").Scan(&beyond))
	require.True(t, beyond, "the fault fired")
	s.step()
	s.requirePublished("2")
	s.commit(late)
	s.step()
	s.step()
	s.requirePublished("2", "late")
}

// F35: prior_position is the position that the reading's snapshot showed, which bounds where such rows may be.
func TestPriorPositionIsWhatTheSnapshotShowed(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.putNow("1")
	s.step()
	s.putNow("2")
	ctx := t.Context()
	b, err := s.read(ctx, s.store, s.every, 10)
	require.NoError(t, err)
	var shown, at int64
	var partition int
	for _, c := range b.cursors {
		if len(b.parts[c.Partition]) > 0 {
			shown, partition = c.Position, c.Partition
		}
	}
	p := s.publishRows(ctx, b.rows)
	s.conclude(p, b)
	require.NoError(t, s.moveBatch(b, false))
	require.NoError(t, s.pool.QueryRow(ctx, "SELECT prior_position, position FROM endstate_outbox_cursors WHERE partition = $1", partition).Scan(&at, new(int64)))
	require.Equal(t, shown, at)
	require.Positive(t, shown)
	s.step() // an empty move spares idle looks the second condition
	var prior, position int64
	require.NoError(t, s.pool.QueryRow(ctx, "SELECT prior_position, position FROM endstate_outbox_cursors WHERE partition = $1", partition).Scan(&prior, &position))
	require.Equal(t, position, prior)
}

// A reading takes no transaction id, so that the move's is later than its snapshot.
func TestAReadingTakesNoTransactionID(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	late := s.begin()
	s.put(late, "late")
	s.putNow("1", "2")
	ids := func() (id int64) {
		require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_xid IS NOT NULL").Scan(&id))
		return id
	}
	conn, err := s.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	require.EqualValues(t, 1, ids())
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), pins)
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), s.store.reading, s.cfg.Subscription, s.lease.id, "[0,1,2,3,4,5,6,7]", 10)
	require.NoError(t, err)
	rows.Close()
	require.NoError(t, rows.Err())
	var assigned *string
	require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_current_xact_id_if_assigned()::text").Scan(&assigned))
	require.Nil(t, assigned)
	require.NoError(t, tx.Rollback(t.Context()))
}

// F35: a move is of the incarnation of its reading: in between, commits may have been lost, and their numbers given out again.
func TestAMoveIsOfItsReadingsIncarnation(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.putNow("1")
	ctx := t.Context()
	b, err := s.read(ctx, s.store, s.every, 10)
	require.NoError(t, err)
	p := s.publishRows(ctx, b.rows)
	s.conclude(p, b)
	s.exec("TRUNCATE endstate_outbox_incarnation") // what a crash does
	require.NoError(t, s.moveBatch(b, false))
	var position int64
	require.NoError(t, s.pool.QueryRow(ctx, "SELECT max(position) FROM endstate_outbox_cursors").Scan(&position))
	require.Zero(t, position)
	s.step() // makes it anew
	s.step()
	s.requirePublished("1", "1")
	require.NoError(t, s.pool.QueryRow(ctx, "SELECT max(position) FROM endstate_outbox_cursors").Scan(&position))
	require.Positive(t, position)

	// A copy of the database has the row, and isn't it.
	s.exec("UPDATE endstate_outbox_incarnation SET database = database::text::bigint::oid, relation = '1'::oid")
	b, err = s.read(ctx, s.store, s.every, 10)
	require.NoError(t, err)
	require.Nil(t, b)
}

// A token is random, and new with each move: who took over, or moved already, can't be undone.
func TestAMoveNeedsTheTokenOfItsReading(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.putNow("1")
	ctx := t.Context()
	read := func() *batch {
		b, err := s.read(ctx, s.store, s.every, 10)
		require.NoError(t, err)
		s.conclude(s.publishRows(ctx, b.rows), b)
		return b
	}
	stale := read()
	require.NoError(t, s.store.release(ctx, s.lease.id))
	s.next(nil)
	s.step()
	s.putNow("2")
	tokens := func() (all string) {
		require.NoError(t, s.pool.QueryRow(ctx, "SELECT string_agg(token::text, ' ' ORDER BY partition) FROM endstate_outbox_cursors").Scan(&all))
		return all
	}
	before := tokens()
	require.NoError(t, s.moveBatch(stale, false))
	require.Equal(t, before, tokens())
	s.step()
	s.requirePublished("1", "1", "2")

	// A move whose answer was lost is sent again, and was done.
	s.putNow("3")
	b := read()
	c := b.cursors[0]
	moves := []move{{Partition: c.Partition, Token: c.Token, Next: newToken(), Mode: moveAll, Shown: c.Position, Position: c.Position + 1}}
	park := []park{{Partition: c.Partition, Seq: 1000, ID: newToken(), Kind: "order", Aggregate: "b"}}
	for range 2 {
		moved, err := s.store.move(ctx, moves, c.Now, c.Incarnation, park)
		require.NoError(t, err)
		require.Equal(t, []int{c.Partition}, moved)
	}
	var parked int
	require.NoError(t, s.pool.QueryRow(ctx, "SELECT count(*) FROM endstate_outbox_parked").Scan(&parked))
	require.Equal(t, 1, parked)
}

// A subscription at the end gets whole transactions: those that commit after its start.
func TestASubscriptionAtTheEndGetsNoHalves(t *testing.T) {
	t.Parallel()
	at := func(c *Config) { c.Subscription, c.Start = "end", End }
	s := newScript(t, nil)
	s.putNow("old")
	before, after := s.begin(), s.begin()
	s.put(before, "before 1")
	s.put(after, "after 1")
	s.putNow("old 2")
	s.next(at)
	s.placing = true
	require.NoError(t, s.place(t.Context())) // the first move
	s.put(before, "before 2")
	s.put(after, "after 2")
	s.commit(before)
	s.putNow("between")
	require.NoError(t, s.place(t.Context())) // the second
	s.placing = false
	s.commit(after)
	s.putNow("new")
	for range 3 {
		s.step()
	}
	s.requirePublished("after 1", "after 2", "new")
}

// F35: more late rows than a batch go out in pieces, and nothing fresh of the partition before the last; who takes over in between
// goes on where they ended.
func TestLateRowsGoOutInPieces(t *testing.T) {
	t.Parallel()
	few := func(c *Config) { c.BatchSize = 10 }
	s := newScript(t, few)
	late := s.begin()
	var want []string
	for i := range 25 {
		want = append(want, fmt.Sprint("late ", i))
	}
	s.put(late, want...)
	s.putNow("1")
	s.step()
	s.step()
	s.requirePublished("1")
	s.commit(late)
	s.putNow("fresh")
	s.step()
	s.requirePublished(append([]string{"1"}, want[:10]...)...)
	later := s.begin()
	s.put(later, "later")
	require.NoError(t, s.store.release(t.Context(), s.lease.id))
	s.next(few)
	s.step()
	s.commit(later)
	s.step()
	s.requirePublished(append([]string{"1"}, want...)...)
	for range 3 {
		s.step()
	}
	s.requirePublished(append(append([]string{"1"}, want...), "fresh", "later")...)
}

// Rows of a restore have transaction ids of another cluster: they are published, once, whatever these say, also where one is
// that of a transaction in progress here.
func TestARestoreIntoAnotherCluster(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"lower", "higher", "in progress", "in progress, and nothing more"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, nil)
			open := s.begin()
			txid := map[string]string{"lower": "3", "higher": "900000000000"}[name]
			if txid == "" {
				require.NoError(t, open.QueryRow(t.Context(), "SELECT pg_current_xact_id()::text").Scan(&txid))
			}
			s.putNow("published")
			s.step()
			s.step()
			// What was late and not read there, what was read, and what is fresh.
			insert := func(kind string) {
				s.exec(`INSERT INTO endstate_outbox (txid, partition, id, aggregate_type, aggregate_id, type, payload)
VALUES ($1::text::xid8, endstate_outbox_partition('order', 'a'), gen_random_uuid(), 'order', 'a', $2, '{}')`, txid, kind)
			}
			insert("late")
			s.exec(`UPDATE endstate_outbox_cursors SET cluster = 1, owner = NULL, position = (SELECT max(seq) FROM endstate_outbox), prior_position = 0,
	snapshot = ($1 || ':' || $1::bigint + 10 || ':' || $1)::pg_snapshot WHERE partition = endstate_outbox_partition('order', 'a')`, txid)
			s.exec("UPDATE endstate_outbox SET txid = '2' WHERE type = 'published'")
			require.NoError(t, s.balance(t.Context()))
			for range 3 {
				s.step()
			}
			want := []string{"published", "late", "new"}
			if name != "in progress, and nothing more" {
				insert("fresh") // a row that is foreign by itself
				want = []string{"published", "late", "fresh", "new"}
			}
			for range 3 {
				s.step()
			}
			s.commit(open)
			s.putNow("new")
			for range 4 {
				s.step()
			}
			s.requirePublished(want...)
		})
	}
}

// The sequence is looked at when partitions are taken: numbers that come again would be passed over.
func TestASequenceThatGoesBackStopsTheRelay(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.putNow("1", "2", "3")
	s.step()
	require.NoError(t, s.store.release(t.Context(), s.lease.id))
	s.exec("TRUNCATE endstate_outbox RESTART IDENTITY")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // after which Run returns nil
	defer cancel()
	require.ErrorIs(t, s.Relay.Run(ctx), ErrSequence)
}
