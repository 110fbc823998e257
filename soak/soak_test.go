package soak

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox/inbox"
)

func TestMain(m *testing.M) {
	if text := os.Getenv(workerEnv); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// callsPerKey is how many calls a key gets, about.
const callsPerKey = 10

// TestHistories goes on, in rounds, for as long as it is told to, or for one short round, in which each kind of fault strikes: F1,
// F2, F4, F5, F13, F18, F20, F24, F39, F40.
func TestHistories(t *testing.T) {
	run := newRun(t)
	s := newService(t)
	for began := time.Now(); !run.done(t, time.Since(began)); {
		s.round(t, run)
		if t.Failed() {
			return
		}
	}
}

// service is what the workers have in common.
type service struct{ servers *servers }

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{startServers(t)}
	ctx := t.Context()
	// The clock that the library asks can be moved.
	pool := dbtest.PoolOn(t, s.servers.primary.URL(), func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = "0" // that is for the workers
	})
	for _, statement := range []string{schema, clock, "ALTER DATABASE postgres SET search_path = moved, public, pg_catalog"} {
		_, err := pool.Exec(ctx, statement)
		require.NoError(t, err)
	}
	pool.Reset()
	library, err := newLibrary(pool, dbtest.SQLOn(t, s.servers.primary.URL()), nil)
	require.NoError(t, err)
	for _, f := range library.pgx {
		require.NoError(t, f.Migrate(ctx))
	}
	table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: toNATS})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(ctx))
	pool.Close()
	return s
}

// round is one round: so many operations under faults, and then a check of what everybody was told and what is there.
type round struct {
	t       *testing.T
	servers *servers
	brokers *brokers
	workers *workers
	proxies map[string]*pgfault.Proxy // by role
}

func (s *service) round(t *testing.T, run *run) {
	number := len(run.Rounds) + 1
	t.Run(fmt.Sprintf("round %d", number), func(t *testing.T) {
		began := time.Now()
		r := &round{t: t, servers: s.servers, proxies: map[string]*pgfault.Proxy{}}
		r.servers.addStandby()
		openKeys(t, r.servers.direct, run.keys)
		r.brokers = startBrokers(t)
		seed := run.Seed + uint64(number)<<32
		h := newHistory()
		r.workers = startWorkers(t, h, seed, func(post) worker { return worker{addresses: r.brokers.addresses()} }, r.posts()...)
		faults := r.faults()
		strikeAll(t.Context(), seed, faults, run.pace, func() { drive(t, r.servers.direct, h, r.workers, run, faults) })
		r.workers.end(producing)
		calling := time.Since(began)
		t.Logf("%d operations in %v: %s", h.effective(), calling.Round(time.Millisecond), counts(h.results))
		r.servers.direct.Reset() // of connections that the server's stops broke
		r.requireDrained()
		r.workers.end("")
		r.servers.direct.Reset()
		t.Logf("drained after another %v", (time.Since(began) - calling).Round(time.Millisecond))

		if run.state == "" {
			requireStruck(t, faults, h)
		}
		require.Greater(t, h.results[won], run.keys/2, "won calls: most keys are to be finalized by somebody who is told so")
		readRows(t, r.servers.direct, h)
		requireLegal(t, h)
		finalized := requireInvariants(t, r)
		r.requireSteps(t)
		events := r.requireDelivered(t)
		r.requireNothingHeld(t)
		r.brokers.requireNothingHeld(t)
		run.add(r, h, faults, finalized, events, time.Since(began))
	})
}

// posts are four producers, of whom two go past the proxy, two relays and two consumers.
func (r *round) posts() (posts []post) {
	for _, role := range []string{producing, relaying, consuming} {
		proxy := pgfault.New(r.t, with(r.t, r.servers.primary.URL(), "application_name", role))
		r.proxies[role] = proxy
		for range 2 {
			posts = append(posts, post{role, proxy.URL()})
			if role == producing {
				posts = append(posts, post{role, with(r.t, r.servers.url(), "application_name", role)})
			}
		}
	}
	return posts
}

// drive lets the workers call until there are so many operations, and every fault has struck that has to in this round: in a run of
// one round all have. It says how far they are. For as long as it goes on there are keys to finalize: where nothing is published, nothing
// moves, and a fault at a move has nothing to strike.
func drive(t *testing.T, db *pgxpool.Pool, h *history, workers *workers, run *run, faults []*fault) {
	t.Helper()
	began, said := time.Now(), time.Now()
	operations, opened := run.keys*run.callsPerKey, run.keys
	due := func(f *fault) bool { return f.struck.Load() == 0 && (f.armed || run.state == "") }
	for done := 0; (done < operations || slices.ContainsFunc(faults, due)) && !t.Failed(); done = h.effective() {
		key := done / run.callsPerKey
		if key > opened && openMore(t.Context(), db, opened+run.keys) == nil { // else it is tried again: the server is struck, too
			opened += run.keys
		}
		workers.move(int64(min(key, opened)))
		if done >= operations {
			// On a slow machine they strike so often that nobody gets to where the others wait.
			for _, f := range faults {
				f.rests.Store(f.struck.Load() > 0)
			}
		}
		if time.Since(said) >= 10*time.Second {
			said = time.Now()
			t.Logf("%4.0f s: %d of %d operations, %.0f a second; faults that haven't struck yet: %q", time.Since(began).Seconds(), done, operations, float64(done)/time.Since(began).Seconds(), names(faults, due))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func names(faults []*fault, which func(*fault) bool) (names []string) {
	for _, f := range faults {
		if which(f) {
			names = append(names, f.name)
		}
	}
	return names
}

func counts(results map[string]int) string {
	var parts []string
	for _, result := range []string{won, lost, open, unknown, failed} {
		parts = append(parts, fmt.Sprintf("%d %s", results[result], result))
	}
	return strings.Join(parts, ", ")
}

// The check notices what is wrong.
func TestCheckCatchesBrokenFinalizers(t *testing.T) {
	servers := newService(t).servers
	servers.addStandby()
	for _, how := range []string{checkThenAct, blindRetry} {
		t.Run(how, func(t *testing.T) {
			run := &run{keys: 300, callsPerKey: callsPerKey, pace: 1}
			openKeys(t, servers.direct, run.keys)
			proxy := pgfault.New(t, servers.primary.URL())
			h := newHistory()
			called := post{producing, proxy.URL()}
			workers := startWorkers(t, h, 1, func(post) worker { return worker{Broken: how} }, called, called, called, called)
			faults := cuts(proxy, "COMMIT", commits, pgfault.CutAfterReply)
			faults[0].every = 10 * time.Millisecond
			strikeAll(t.Context(), 1, faults, run.pace, func() { drive(t, servers.direct, h, workers, run, faults) })
			workers.end("")
			readRows(t, servers.direct, h)
			keys := h.byKey()
			bad := illegal(t, keys)
			require.NotEmpty(t, bad, "nothing was noticed in %d operations", len(h.operations))
			shortest := slices.MinFunc(bad, func(a, b int64) int { return len(keys[a]) - len(keys[b]) })
			t.Logf("%d of %d keys fit no order; key %d:\n%s", len(bad), len(keys), shortest, story(keys[shortest]))
		})
	}
}
