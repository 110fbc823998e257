package relay

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// The tests of this file go through a consumer's transaction step by step. Each is about one condition under which an event has one
// effect, and loses or repeats one without that.

// newConsumerScript is a script of a consumer whose effect is a row in the table effects. Between that and the move, beside is called.
func newConsumerScript(t *testing.T, beside func(s *script, e outbox.Event)) *script {
	s := &script{t: t, pool: dbtest.Pool(t)}
	s.in(func(ctx context.Context, tx pgx.Tx) error { return outbox.Writer{}.Migrate(ctx, tx) })
	s.exec("CREATE TABLE effects (number int GENERATED ALWAYS AS IDENTITY, kind text)")
	r, err := NewConsumer(s.pool, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
		_, err := tx.Exec(ctx, "INSERT INTO effects (kind) VALUES ($1)", e.Type)
		beside(s, e)
		return err
	}, &Config{Subscription: "default", Logger: slog.New(slog.DiscardHandler), LeaseTTL: time.Hour, BatchSize: 80})
	require.NoError(t, err)
	s.work(r)
	return s
}

// requireEffects makes sure of the effects there are, and of how many events a cursor has passed.
func (s *script) requireEffects(passed int, kinds ...string) {
	s.t.Helper()
	var got []string
	require.NoError(s.t, s.pool.QueryRow(s.t.Context(), "SELECT array_agg(kind ORDER BY number) FROM effects").Scan(&got))
	require.Equal(s.t, kinds, got)
	var n int
	require.NoError(s.t, s.pool.QueryRow(s.t.Context(), "SELECT count(*) FROM endstate_outbox e JOIN endstate_outbox_cursors c USING (partition) WHERE e.seq <= c.position").Scan(&n))
	require.Equal(s.t, passed, n)
}

// Who has lost its partition meanwhile does nothing: the cursor's token is another one.
func TestAConsumersMoveNeedsItsToken(t *testing.T) {
	t.Parallel()
	taken := false
	s := newConsumerScript(t, func(s *script, _ outbox.Event) {
		if !taken {
			s.exec("UPDATE endstate_outbox_cursors SET token = gen_random_uuid()")
			taken = true
		}
	})
	s.putNow("1")
	s.step()
	require.True(t, taken)
	s.requireEffects(0)
	s.step()
	s.requireEffects(1, "1")
}

// In another incarnation of the database the reading's numbers and transaction ids may be others'.
func TestAConsumersMoveIsOfItsReadingsIncarnation(t *testing.T) {
	t.Parallel()
	crashed := false
	s := newConsumerScript(t, func(s *script, _ outbox.Event) {
		if !crashed {
			s.exec("DELETE FROM endstate_outbox_incarnation")
			crashed = true
		}
	})
	s.putNow("1")
	s.step()
	require.True(t, crashed)
	s.requireEffects(0)
	s.step() // makes it anew
	s.step()
	s.requireEffects(1, "1")
}

// The cursor passes what was handled, and nothing else that was read.
func TestAConsumersCursorPassesWhatWasHandled(t *testing.T) {
	t.Parallel()
	s := newConsumerScript(t, func(*script, outbox.Event) {})
	s.cfg.pass = time.Nanosecond
	s.putNow("1", "2", "3")
	s.step()
	s.requireEffects(1, "1")
	s.step()
	s.requireEffects(2, "1", "2")
	s.cfg.pass = time.Minute
	s.step()
	s.requireEffects(3, "1", "2", "3")
}

// The effect and the move are of one transaction: what undoes the one undoes the other.
func TestAConsumersEffectAndMoveAreOneTransaction(t *testing.T) {
	t.Parallel()
	s := newConsumerScript(t, func(*script, outbox.Event) {})
	s.putNow("1")
	s.exec("CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not now''; END'")
	refuse := func(table, events string) {
		t.Helper()
		s.exec("CREATE CONSTRAINT TRIGGER refuse AFTER " + events + " ON " + table + " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()")
		s.balanced = time.Now()
		_, _ = s.round(t.Context()) // the COMMIT fails, after both
		s.requireEffects(0)
		s.exec("DROP TRIGGER refuse ON " + table)
		s.gauge = gauge{low: s.cfg.minOutage, high: s.cfg.maxOutage}
	}
	refuse("effects", "INSERT")
	refuse("endstate_outbox_cursors", "UPDATE")
	s.step()
	s.requireEffects(1, "1")
	var same bool
	require.NoError(t, s.pool.QueryRow(t.Context(), "SELECT e.xmin = c.xmin FROM effects e, endstate_outbox_cursors c WHERE c.position > 0").Scan(&same))
	require.True(t, same)
}
