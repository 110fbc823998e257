package outbox

import (
	"context"
	"fmt"
	"time"

	"github.com/endstate-go/endstate"
)

// tables are the statements of a relay that read the same in both dialects.
type tables struct {
	database
	outbox, relays, shards string // quoted
	cfg                    *RelayConfig
}

func newStore(db database, cfg *RelayConfig) store {
	t := tables{db, cfg.Outbox.table(), cfg.Outbox.relays(), cfg.Outbox.shards(), cfg}
	if db.sqlite() {
		return &sqlite{t}
	}
	return newPostgres(t)
}

func (t *tables) register(ctx context.Context, name string, ttl time.Duration) (epoch int64, err error) {
	err = t.QueryRow(ctx, fmt.Sprintf("INSERT INTO %s (name, expires_at) VALUES (CAST($1 AS text), %s) RETURNING epoch",
		t.relays, t.later("CAST($2 AS double precision)")), name, ttl.Seconds()).Scan(&epoch)
	return epoch, err
}

func (t *tables) renew(ctx context.Context, epoch int64, ttl time.Duration, published int64, rate float64) (bool, error) {
	tag, err := t.Exec(ctx, fmt.Sprintf(`UPDATE %s SET expires_at = %s, published = CAST($3 AS bigint), rate = CAST($4 AS double precision)
WHERE epoch = CAST($1 AS bigint)`, t.relays, t.later("CAST($2 AS double precision)")), epoch, ttl.Seconds(), published, rate)
	return err == nil && tag.RowsAffected() == 1, err
}

func (t *tables) release(ctx context.Context, epoch int64) error {
	return t.inTx(ctx, func(tx endstate.Tx) error {
		if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET epoch = NULL WHERE epoch = CAST($1 AS bigint)", t.shards), epoch); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("DELETE FROM %s WHERE epoch = CAST($1 AS bigint)", t.relays), epoch)
		return err
	})
}

func (t *tables) holdings(ctx context.Context, epoch int64) (h holdings, err error) {
	count := func(condition string) string {
		return fmt.Sprintf("(SELECT count(*) FROM %s WHERE %s)", t.shards, condition)
	}
	err = t.QueryRow(ctx, fmt.Sprintf("SELECT (SELECT count(*) FROM %s), %s, %s, %s", t.relays, count("epoch = CAST($1 AS bigint)"),
		count("epoch = CAST($1 AS bigint) AND suspect_from IS NOT NULL"), count("epoch IS NULL")), epoch).Scan(&h.relays, &h.owned, &h.suspect, &h.unowned)
	return h, err
}

func (t *tables) take(ctx context.Context, epoch int64, n int) error {
	// At random, so that relays that start together don't all want the same.
	_, err := t.Exec(ctx, fmt.Sprintf(`UPDATE %[1]s SET epoch = CAST($1 AS bigint) WHERE EXISTS (SELECT 1 FROM %[2]s WHERE epoch = CAST($1 AS bigint))
	AND shard IN (SELECT shard FROM %[1]s WHERE epoch IS NULL ORDER BY random() LIMIT CAST($2 AS bigint)%[3]s)`, t.shards, t.relays, t.skipLocked()), epoch, n)
	return err
}

func (t *tables) give(ctx context.Context, epoch int64, n int) error {
	_, err := t.Exec(ctx, fmt.Sprintf(`UPDATE %[1]s SET epoch = NULL
WHERE shard IN (SELECT shard FROM %[1]s WHERE epoch = CAST($1 AS bigint) ORDER BY random() LIMIT CAST($2 AS bigint)%[2]s)`, t.shards, t.skipLocked()), epoch, n)
	return err
}

func (t *tables) trust(ctx context.Context, epoch int64) error {
	_, err := t.Exec(ctx, fmt.Sprintf("UPDATE %s SET suspect_from = NULL, suspect_to = NULL WHERE epoch = CAST($1 AS bigint) AND suspect_from IS NOT NULL", t.shards), epoch)
	return err
}

// orphanShards frees shards whose owner's lease is gone: a relay may have taken them while it was ended. The condition is on the
// row alone, which is looked at again after a wait: the shard may have an owner by then.
func (t *tables) orphanShards() string {
	return fmt.Sprintf("UPDATE %[1]s SET epoch = NULL WHERE epoch IN (SELECT epoch FROM %[1]s WHERE epoch IS NOT NULL EXCEPT SELECT epoch FROM %[2]s)", t.shards, t.relays)
}

func (t *tables) free(ctx context.Context, epoch int64) error {
	_, err := t.Exec(ctx, fmt.Sprintf(`UPDATE %[1]s SET next_attempt_at = %[2]s WHERE seq IN (
	SELECT e.seq FROM %[1]s e WHERE e.next_attempt_at = 'infinity' AND e.shard IN (SELECT shard FROM %[3]s WHERE epoch = CAST($1 AS bigint))
		AND NOT EXISTS (SELECT 1 FROM %[1]s w WHERE %[4]s))`, t.outbox, t.clock(), t.shards, waitsBefore), epoch)
	return err
}

// waitsBefore says that w, a failed event or one behind it, is of the same aggregate as e and earlier.
const waitsBefore = "w.next_attempt_at IS NOT NULL AND w.aggregate_type = e.aggregate_type AND w.aggregate_id = e.aggregate_id AND w.seq < e.seq"

// died is the last_error of an event that a relay died with.
const died = "the relay died while it published this event"
