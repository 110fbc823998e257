package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
)

// errLeaseLost ends a term: another relay may own the partitions now.
var errLeaseLost = errors.New("relay: the lease is lost")

// lease is a relay's right to publish the events of its partitions. It says for how long on this process's monotonic clock,
// counted from before a renewal was sent, so that it ends here before it ends on the database's clock, whatever the time of
// day is on either.
type lease struct {
	id string
	// ctx ends with the lease, or when a shutdown has taken long enough. It doesn't end with Run's.
	ctx    context.Context
	cancel context.CancelCauseFunc

	published atomic.Int64 // events, for people
	keeper    sync.WaitGroup
}

// acquire joins the subscription with a lease, and keeps that until close.
func (r *Relay) acquire(ctx context.Context) (*lease, error) {
	asked := time.Now()
	l := &lease{id: newToken()}
	if err := r.store.join(ctx, l.id, r.destination()); err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	l.keeper.Go(func() { r.keep(l, asked) })
	return l, nil
}

// lost reports whether the lease has ended.
func (l *lease) lost() bool { return l.ctx.Err() != nil }

// close ends the lease here, and waits for its keeper.
func (l *lease) close() {
	l.cancel(errLeaseLost)
	l.keeper.Wait()
}

// keep renews the lease. When that can't be done in time, or another relay ended the lease, it is lost.
func (r *Relay) keep(l *lease, renewed time.Time) {
	// A twentieth is for clocks that don't run equally fast.
	valid := r.cfg.LeaseTTL - r.cfg.LeaseTTL/20
	beat := r.cfg.LeaseTTL / 5
	expiry := time.AfterFunc(time.Until(renewed.Add(valid)), func() { l.cancel(errLeaseLost) })
	defer expiry.Stop()
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	var before int64
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-ticker.C:
		}
		asked, published := time.Now(), l.published.Load()
		rate := float64(published-before) / asked.Sub(renewed).Seconds()
		ctx, cancel := context.WithTimeout(l.ctx, beat*2)
		alive, err := r.store.renew(ctx, l.id, published, rate)
		cancel()
		switch {
		case err != nil:
			r.log.DebugContext(l.ctx, "outbox relay: lease not renewed", "error", err)
			r.store.drop(l.ctx, err)
		case !alive:
			l.cancel(errLeaseLost)
			return
		case !expiry.Reset(time.Until(asked.Add(valid))):
			return // it went off meanwhile
		default:
			renewed, before = asked, published
		}
	}
}

func (s *store) renew(ctx context.Context, id string, published int64, rate float64) (bool, error) {
	tag, err := s.Exec(ctx, fmt.Sprintf("UPDATE %s SET expires_at = %s, published = CAST($3 AS bigint), rate = CAST($4 AS double precision) WHERE id = %s",
		s.relays, s.later("CAST($2 AS double precision)"), s.uuid("CAST($1 AS text)")), id, s.cfg.LeaseTTL.Seconds(), published, rate)
	return err == nil && tag.RowsAffected() == 1, err
}

// release gives the partitions of a lease back, with nothing in flight.
func (s *store) release(ctx context.Context, id string) error {
	return s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		mine := s.uuid("CAST($1 AS text)")
		if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET owner = NULL WHERE owner = %s", s.cursors, mine), id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE id = %s", s.relays, mine), id)
		return err
	})
}

// reap ends the leases that have expired, and returns whose they were. What they had in flight is to be taken with care.
func (s *store) reap(ctx context.Context) (names []string, err error) {
	var gone, orphans int
	expired := fmt.Sprintf("FROM %s WHERE expires_at < %s", s.relays, s.clock())
	// A relay may have taken a partition while it was ended. The condition is on the row alone, which is looked at again after a
	// wait: the partition may have another owner by then.
	orphaned := fmt.Sprintf("owner IN (SELECT owner FROM %s WHERE owner IS NOT NULL EXCEPT SELECT id FROM %s)", s.cursors, s.relays)
	err = s.QueryRow(ctx, fmt.Sprintf("SELECT (SELECT count(*) %s), (SELECT count(*) FROM %s WHERE %s)", expired, s.cursors, orphaned)).Scan(&gone, &orphans)
	if err != nil || gone+orphans == 0 {
		return nil, err
	}
	err = s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		err := each(ctx, tx, func(row pgx.Row) error {
			var name string
			err := row.Scan(&name)
			names = append(names, name)
			return err
		}, "DELETE "+expired+" RETURNING name")
		if err != nil {
			return err
		}
		// A consumer that is gone may still hold its cursors, until the server ends its transaction: nobody waits for that.
		_, err = tx.Exec(ctx, fmt.Sprintf("UPDATE %[1]s SET owner = NULL, careful = 1 WHERE (subscription, partition) IN (SELECT subscription, partition FROM %[1]s WHERE %[2]s%[3]s)",
			s.cursors, orphaned, s.forUpdate(" SKIP LOCKED")))
		return err
	})
	return names, err
}

// holdings is how a subscription's partitions are spread.
type holdings struct{ relays, owned, unowned int }

func (s *store) holdings(ctx context.Context, id string) (h holdings, err error) {
	const count = "(SELECT count(*) FROM %s WHERE subscription = CAST($1 AS text)%s)"
	err = s.QueryRow(ctx, fmt.Sprintf("SELECT "+count+", "+count+", "+count, s.relays, "", s.cursors, " AND owner = "+s.uuid("CAST($2 AS text)"), s.cursors, " AND owner IS NULL"),
		s.cfg.Subscription, id).Scan(&h.relays, &h.owned, &h.unowned)
	return h, err
}

// take takes up to n free partitions, at random, so that relays that start together don't all want the same. A cursor that
// counts the transactions of another cluster came with a restore.
func (s *store) take(ctx context.Context, id string, n int) error {
	restored := s.either(", restored = restored OR cluster <> endstate_cluster.id, cluster = endstate_cluster.id FROM (SELECT system_identifier AS id FROM pg_control_system()) endstate_cluster", "")
	return s.run(ctx, fmt.Sprintf(`UPDATE %[1]s SET owner = %[3]s, token = %[4]s, batch = CASE WHEN careful = 0 OR batch < CAST($4 AS integer) THEN CAST($4 AS integer) ELSE batch END%[6]s
WHERE subscription = CAST($1 AS text) AND owner IS NULL AND EXISTS (SELECT 1 FROM %[2]s WHERE id = %[3]s)
	AND partition IN (SELECT partition FROM %[1]s WHERE subscription = CAST($1 AS text) AND owner IS NULL ORDER BY random() LIMIT CAST($3 AS bigint)%[5]s)`,
		s.cursors, s.relays, s.uuid("CAST($2 AS text)"), s.random(), s.forUpdate(" SKIP LOCKED"), restored), s.cfg.Subscription, id, n, s.cfg.BatchSize)
}

// give gives n partitions back, but for those to keep.
func (s *store) give(ctx context.Context, id string, n int, keep []int) error {
	return s.run(ctx, fmt.Sprintf(`UPDATE %[1]s SET owner = NULL WHERE subscription = CAST($1 AS text) AND partition IN (SELECT partition FROM %[1]s
	WHERE %[2]s AND partition NOT IN (%[3]s) ORDER BY random() LIMIT CAST($4 AS bigint)%[4]s)`,
		s.cursors, s.owned(), s.elements("$3", "smallint"), s.forUpdate(" SKIP LOCKED")), s.cfg.Subscription, id, toJSON(keep), n)
}

// balance ends expired leases of others, and takes or gives partitions until this relay owns its share.
func (t *term) balance(ctx context.Context) error {
	gone, err := t.store.reap(ctx)
	if err != nil {
		return err
	}
	for _, name := range gone {
		t.log.WarnContext(ctx, "outbox relay: another relay died, its partitions are free", "died", name)
	}
	h, err := t.store.holdings(ctx, t.lease.id)
	if err != nil {
		return err
	}
	share := t.share(h)
	taking := h.owned < share && h.unowned > 0
	if taking || time.Since(t.sequenceChecked) > sequenceEvery {
		if err := t.store.checkSequence(ctx); err != nil {
			return err
		}
		t.sequenceChecked = time.Now()
	}
	switch {
	case taking:
		t.waiting, t.nextDue, t.freed = true, time.Now(), time.Time{}
		err = t.store.take(ctx, t.lease.id, share-h.owned)
	case h.owned > share:
		// What is in memory of a partition isn't given away.
		err = t.store.give(ctx, t.lease.id, h.owned-share, append([]int{}, slices.Collect(maps.Keys(t.sent))...))
	default:
		t.note(ctx, h)
		return nil
	}
	if err != nil {
		return err
	}
	if h, err = t.store.holdings(ctx, t.lease.id); err == nil {
		t.note(ctx, h)
	}
	return err
}

// share is how many partitions a relay may have.
func (t *term) share(h holdings) int { return (t.partitions + max(h.relays, 1) - 1) / max(h.relays, 1) }

// note tells when the number of partitions has changed.
func (t *term) note(ctx context.Context, h holdings) {
	t.relays = h.relays
	t.uneven = h.owned < t.partitions/max(h.relays, 1) || h.owned > t.share(h) && len(t.sent) == 0
	if t.hurried++; !t.uneven {
		t.hurried = 0
	}
	if h.owned == t.owned {
		return
	}
	t.log.InfoContext(ctx, "outbox relay: partitions changed", "partitions", h.owned, "before", t.owned, "relays", h.relays)
	t.owned = h.owned
	if owns := t.cfg.Trace.Owns; owns != nil {
		owns(ctx, h.owned)
	}
}

const sequenceEvery = time.Minute

// checkSequence makes sure that numbers to come are above all positions.
func (s *store) checkSequence(ctx context.Context) error {
	last, name := "coalesce(pg_sequence_last_value(pg_get_serial_sequence($1::text, 'seq')::regclass), 0)", s.events
	if s.sqlite() {
		last, name = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = $1), 0)", s.cfg.Outbox.Name()
	}
	var position, at int64
	if err := s.QueryRow(ctx, fmt.Sprintf("SELECT coalesce((SELECT max(position) FROM %s), 0), %s", s.cursors, last), name).Scan(&position, &at); err != nil {
		return err
	}
	if at < position {
		return fmt.Errorf("%w: the sequence of %s is at %d, a cursor at %d; set it above every cursor (endstate doctor prints the statement), or drop the subscriptions", ErrSequence, s.events, at, position)
	}
	return nil
}
