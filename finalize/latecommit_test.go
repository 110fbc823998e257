package finalize_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// F3: the COMMIT is on its way for so long that the caller gives up. While it can still take effect, nobody is told that it
// didn't.
func TestCommitArrivesLate(t *testing.T) {
	for _, c := range faultCases() {
		if c.call == "settle" || c.name == "do/own" {
			continue // see the next tests: they wait by the row's lock, not by the transaction's id
		}
		if c.call == "sql" && !dbtest.GivesUp() {
			continue
		}
		for _, inTime := range []bool{true, false} {
			name := c.name + "/after the bound"
			if inTime {
				name = c.name + "/while asking"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				f := c.setUp(t, func(cfg *finalize.Config) {
					cfg.ResolveTimeout = 500 * time.Millisecond
					if inTime {
						cfg.ResolveTimeout = 20 * time.Second
					}
				})
				ctx, cancel := context.WithCancel(t.Context())
				fault := f.proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.Hold})
				go f.cancelOnceHeld(ctx, fault, cancel)
				if inTime {
					f.resolving = fault.Release
				}
				r, err := f.call(ctx)
				fault.RequireFired(t)
				if inTime {
					require.NoError(t, err)
					require.True(t, r.Won)
				} else {
					require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
					fault.Release()
				}
				again, err := f.call(t.Context())
				require.NoError(t, err)
				require.False(t, again.Won, "the late commit took effect")
				f.requireFinal(t, c, "COMPLETE_STABLE")
			})
		}
	}
}

// F3: a Settle that is still on its way when it is run again: whichever comes first wins, both have one token.
func TestSettleArrivesLate(t *testing.T) {
	for _, c := range faultCases() {
		if c.call != "settle" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := c.setUp(t)
			ctx, cancel := context.WithCancel(t.Context())
			fault := f.proxy.Arm(&pgfault.Fault{SQL: "WITH endstate_settle0", Do: pgfault.Hold})
			go f.cancelOnceHeld(ctx, fault, cancel)
			r, err := f.call(ctx)
			fault.RequireFired(t)
			require.NoError(t, err)
			require.True(t, r.Won)
			fault.Release()
			again, err := f.call(t.Context())
			require.NoError(t, err)
			require.False(t, again.Won)
			require.Equal(t, r.Token, again.Token)
			f.requireFinal(t, c, "COMPLETE_STABLE")
		})
	}
}
