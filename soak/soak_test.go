package soak

import (
	"fmt"
	"net/url"
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
	"github.com/endstate-go/endstate/internal/testserver"
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

// durationEnv is how long to go on, in rounds; unset: one round.
const durationEnv = "ENDSTATE_TEST_SOAK"

const (
	operationsPerRound = 100_000
	callsPerKey        = 10
)

func TestHistories(t *testing.T) {
	var duration time.Duration
	if text := os.Getenv(durationEnv); text != "" {
		var err error
		duration, err = time.ParseDuration(text)
		require.NoError(t, err, durationEnv)
	}
	s := newService(t)
	for began, round := time.Now(), 1; ; round++ {
		s.round(t, round, operationsPerRound)
		if t.Failed() || time.Since(began) >= duration {
			return
		}
	}
}

// service is what the workers have in common.
type service struct {
	server *testserver.Postgres
	direct *pgxpool.Pool // past the proxy
	url    string
}

func newService(t *testing.T) *service {
	t.Helper()
	// What the kernel has survives the server's processes: with fsync off, only a crash of the machine would lose commits.
	server := dbtest.StartPostgres(t, "fsync=off", "full_page_writes=off", fmt.Sprintf("idle_in_transaction_session_timeout=%d", idleTimeout.Milliseconds()))
	s := &service{server: server, url: server.URL()}
	s.direct = dbtest.PoolOn(t, s.url)
	_, err := s.direct.Exec(t.Context(), schema)
	require.NoError(t, err)
	library, err := newLibrary(s.direct, dbtest.SQLOn(t, s.url))
	require.NoError(t, err)
	for _, f := range library.pgx {
		require.NoError(t, f.Migrate(t.Context()))
	}
	return s
}

// round runs so many operations under faults, and checks what they were told and what is there.
func (s *service) round(t *testing.T, number, operations int) {
	t.Run(fmt.Sprintf("round %d", number), func(t *testing.T) {
		openKeys(t, s.direct, operations)
		proxy := pgfault.New(t, s.url)
		h := newHistory()
		workers := startWorkers(t, h, worker{}, withApplication(t, proxy.URL()), withApplication(t, s.url))
		faults := append(cuts(proxy), terminate(s.direct), kill(workers), pause(workers), stop(t, s.server))
		began := time.Now()
		strikeAll(t.Context(), faults, func() { drive(t, h, workers, operations, faults) })
		workers.end()
		t.Logf("%d operations in %v: %s", h.effective(), time.Since(began).Round(time.Millisecond), counts(h.results))
		for _, f := range faults {
			t.Logf("%6d × %s", f.struck.Load(), f.name)
		}
		for _, cause := range causes() {
			t.Logf("%6d × %s", h.causes[cause], cause)
		}
		requireStruck(t, faults, h)
		require.Greater(t, h.results[won], operations/callsPerKey/2, "won calls: most keys are to be finalized by somebody who is told so")

		began = time.Now()
		s.direct.Reset() // of connections that the server's stops broke
		readRows(t, s.direct, h)
		requireLegal(t, h)
		requireInvariants(t, s.direct)
		t.Logf("the calls of every key have an order, checked in %v", time.Since(began).Round(time.Millisecond))
	})
}

// drive lets the workers call until there are so many operations and every fault has struck, and says how far they are.
func drive(t *testing.T, h *history, workers *workers, operations int, faults []*fault) {
	t.Helper()
	began, said := time.Now(), time.Now()
	due := func(f *fault) bool { return f.struck.Load() == 0 }
	for done := 0; (done < operations || slices.ContainsFunc(faults, due)) && !t.Failed(); done = h.effective() {
		workers.move(int64(min(done, operations) / callsPerKey))
		if time.Since(said) >= 5*time.Second {
			said = time.Now()
			t.Logf("%4.0f s: %d of %d operations, %.0f a second", time.Since(began).Seconds(), done, operations, float64(done)/time.Since(began).Seconds())
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func counts(results map[string]int) string {
	var parts []string
	for _, result := range []string{won, lost, open, unknown, failed} {
		parts = append(parts, fmt.Sprintf("%d %s", results[result], result))
	}
	return strings.Join(parts, ", ")
}

func withApplication(t *testing.T, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	require.NoError(t, err)
	q := u.Query()
	q.Set("application_name", application)
	u.RawQuery = q.Encode()
	return u.String()
}

// The check notices what is wrong.
func TestCheckCatchesBrokenFinalizers(t *testing.T) {
	s := newService(t)
	for _, how := range []string{checkThenAct, blindRetry} {
		t.Run(how, func(t *testing.T) {
			const operations = 3000
			openKeys(t, s.direct, operations)
			proxy := pgfault.New(t, s.url)
			h := newHistory()
			workers := startWorkers(t, h, worker{Broken: how}, withApplication(t, proxy.URL()))
			lostReply := cut(proxy, "connection at COMMIT", commits, pgfault.CutAfterReply)
			lostReply.every = 10 * time.Millisecond
			faults := []*fault{lostReply}
			strikeAll(t.Context(), faults, func() { drive(t, h, workers, operations, faults) })
			workers.end()
			readRows(t, s.direct, h)
			keys := h.byKey()
			bad := illegal(t, keys)
			require.NotEmpty(t, bad, "nothing was noticed in %d operations", len(h.operations))
			shortest := slices.MinFunc(bad, func(a, b int64) int { return len(keys[a]) - len(keys[b]) })
			t.Logf("%d of %d keys fit no order; key %d:\n%s", len(bad), len(keys), shortest, story(keys[shortest]))
		})
	}
}
