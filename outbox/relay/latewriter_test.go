package relay

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// F35: a deferred trigger writes its event while the transaction commits: others may have been published by then.
func TestAnEventOfADeferredTrigger(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.exec("CREATE TABLE orders (id text)")
	s.exec(`CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO endstate_outbox (partition, id, aggregate_type, aggregate_id, type, payload)
	VALUES (endstate_outbox_partition('order', 'a'), gen_random_uuid(), 'order', 'a', NEW.id, '{}');
	PERFORM pg_advisory_xact_lock(1);
	RETURN NULL;
END $$`)
	s.exec("CREATE CONSTRAINT TRIGGER put AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION put()")
	ctx := t.Context()
	blocking := s.begin()
	_, err := blocking.Exec(ctx, "SELECT pg_advisory_xact_lock(1)")
	require.NoError(t, err)
	deferred := s.begin()
	_, err = deferred.Exec(ctx, "INSERT INTO orders VALUES ('deferred')")
	require.NoError(t, err)
	s.putNow("1")
	s.step()
	committed := make(chan error, 1)
	go func() { committed <- deferred.Commit(context.WithoutCancel(ctx)) }()
	s.waits("Lock") // the trigger's event has its number
	s.putNow("2")
	s.step()
	s.step()
	s.requirePublished("1", "2")
	s.commit(blocking)
	require.NoError(t, <-committed)
	s.step()
	s.step()
	s.requirePublished("1", "2", "deferred")
}

// F35: an insert that waits for another transaction's dedup key has its number already, and goes in if that one rolls back.
func TestAnEventThatWaitedForAnothersKey(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	ctx := t.Context()
	keyed := func(kind string) outbox.Event {
		return outbox.Event{AggregateType: "order", AggregateID: "a", Type: kind, Payload: []byte("{}"), DedupKey: "key"}
	}
	first, second := s.begin(), s.begin()
	_, err := outbox.Put(ctx, first, keyed("first"))
	require.NoError(t, err)
	put := make(chan error, 1)
	go func() {
		results, err := outbox.Put(context.WithoutCancel(ctx), second, keyed("second"))
		if err == nil && !results[0].Inserted {
			err = outbox.ErrRefused
		}
		put <- err
	}()
	s.waits("Lock")
	s.putNow("between")
	s.step()
	s.step()
	require.NoError(t, first.Rollback(ctx))
	require.NoError(t, <-put)
	s.step()
	s.requirePublished("between")
	s.commit(second)
	s.step()
	s.step()
	s.requirePublished("between", "second")
}

// waits waits until a session of the database waits for something of a kind.
func (s *script) waits(kind string) {
	s.t.Helper()
	for n := 0; n == 0; time.Sleep(time.Millisecond) {
		require.NoError(s.t, s.pool.QueryRow(s.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = $1", kind).Scan(&n))
	}
}
