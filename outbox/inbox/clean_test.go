package inbox_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// age makes a consumer's records look a time older.
func (c *consumer) age(hours int) {
	c.t.Helper()
	if c.sqlite() {
		c.exec(fmt.Sprintf(`UPDATE endstate_inbox SET at = strftime('%%Y-%%m-%%dT%%H:%%M:%%fZ', at, '-%d hours')`, hours))
		return
	}
	c.exec(fmt.Sprintf(`UPDATE endstate_inbox SET at = at - interval '%d hours'`, hours))
}

func retention(d time.Duration) option {
	return tableConfig(func(cfg *inbox.TableConfig) { cfg.Retention = d })
}

func TestCleanDeletesWhatIsOldButDeadLetters(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		old, dead, failed, fresh := event(), event(), event(), event()
		for e, fn := range map[*outbox.Event]work{&old: charge, &failed: poison, &dead: func(context.Context, endstate.Querier, outbox.Event) error { return outbox.Permanent(errPoison) }} {
			_, _ = c.way(fn)(t.Context(), *e)
		}
		c.exec(`INSERT INTO endstate_inbox (consumer, key, digest, state, attempts, at) SELECT 'another', key, digest, state, attempts, at FROM endstate_inbox`)
		c.age(2)
		_, err := c.way(charge)(t.Context(), fresh)
		require.NoError(t, err)
		n, err := c.table.clean(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		require.Equal(t, 2, c.count(`SELECT count(*) FROM endstate_inbox WHERE consumer = 'entitlements' AND key IN ($1, $2)`, dead.ID.String(), fresh.ID.String()))
		require.Equal(t, 3, c.count(`SELECT count(*) FROM endstate_inbox WHERE consumer = 'another'`))
		// The rule: an event that comes again after its record went is applied again.
		r, err := c.way(charge)(t.Context(), old)
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, r.Outcome)
	}, retention(time.Hour))
}

// Two clean-ups at once, while events are handled and repeated: each old record goes once, and no event is applied twice.
func TestCleanUnderLoad(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		const old = 5_500
		if c.sqlite() {
			c.exec(fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) INSERT INTO endstate_inbox (consumer, key, digest, state, attempts, at) SELECT 'entitlements', 'old-' || i, x'00', 'handled', 1, '2000-01-01T00:00:00.000Z' FROM n`, old))
		} else {
			c.exec(fmt.Sprintf(`INSERT INTO endstate_inbox (consumer, key, digest, state, attempts, at) SELECT 'entitlements', 'old-' || i, '\x00', 'handled', 1, now() - interval '1 year' FROM generate_series(1, %d) i`, old))
		}
		handle := c.way(charge)
		var stop atomic.Bool
		var group sync.WaitGroup
		var applied atomic.Int64
		for range 2 {
			group.Go(func() {
				for !stop.Load() {
					e := event()
					for range 2 {
						r, err := handle(context.Background(), e)
						if err != nil {
							t.Error(err)
							return
						}
						if r.Outcome == inbox.Applied {
							applied.Add(1)
						}
					}
				}
			})
		}
		eventually(t, "load", func() bool { return applied.Load() > 0 })
		var deleted atomic.Int64
		dbtest.AtOnce(2, func(int) {
			n, err := c.table.clean(t.Context())
			if err != nil {
				t.Error(err)
			}
			deleted.Add(n)
		})
		stop.Store(true)
		group.Wait()
		require.EqualValues(t, old, deleted.Load()+int64(c.count(`SELECT count(*) FROM endstate_inbox WHERE key LIKE 'old-%'`)))
		n, err := c.table.clean(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, old, deleted.Load()+n)
		require.EqualValues(t, applied.Load(), c.credits())
		require.EqualValues(t, applied.Load(), c.count(`SELECT count(*) FROM endstate_inbox`))
	}, retention(24*time.Hour), func(s *setup) { s.table.Wait = time.Minute })
}

func TestCleanEndsWithItsContext(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := c.table.clean(ctx)
		require.ErrorIs(t, err, context.Canceled)
	})
}
