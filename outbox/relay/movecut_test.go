package relay_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

// F2, F35: the connection is cut at the COMMIT of a move that parks an event: before it, while the server works on it, and after it
// took effect. The relay that lives finds out what became of it by its token: nothing comes twice, and the failure counts once.
func TestMoveThatIsCutAtItsCommit(t *testing.T) {
	t.Parallel()
	for _, do := range []pgfault.Action{pgfault.CutBefore, pgfault.CutWhileWorking, pgfault.CutAfterReply, pgfault.HalfOpenBefore, pgfault.HalfOpen} {
		t.Run(do.String(), func(t *testing.T) {
			t.Parallel()
			proxy := pgfault.New(t, dbtest.Postgres(t))
			db := on(t, proxy.URL())
			db.Migrate(t, *writer)
			db.aggregates(t, 10, 3)
			var parking atomic.Bool
			fault := proxy.Arm(&pgfault.Fault{Do: do, Match: func(sql string) bool {
				if strings.HasPrefix(sql, `INSERT INTO "endstate_outbox_parked"`) {
					parking.Store(true)
				}
				return parking.Load() && strings.EqualFold(sql, "commit")
			}})
			failures := 0
			r := &recorder{fail: func(e outbox.Event) error {
				if e.AggregateID == "a3" && e.Type == "1" && failures == 0 {
					failures++
					return errors.New("once")
				}
				return nil
			}}
			cfg := quick()
			cfg.LeaseTTL = 4 * time.Second // half of it is how long an answer is waited for
			cfg.MinBackoff, cfg.MaxBackoff = 1, 1
			run(t, db.relay(t, r, cfg))
			fault.RequireFired(t)
			db.settled(t)
			require.Equal(t, 1, failures)
			for a := range 10 {
				require.Equal(t, numbered(3), r.first(fmt.Sprint("a", a)))
			}
			r.requireOnce(t, "")
		})
	}
}
