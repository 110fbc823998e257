package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/outbox"
)

// Whom the server doesn't let listen tries again, and waits longer from time to time.
func TestListeningBacksOff(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "pgx")
	db.Migrate(t, *writer)
	cfg, log := quick(), &dbtest.Log{}
	cfg.ListenURL, cfg.Logger = "postgres://127.0.0.1:1/nobody?sslmode=disable", slog.New(slog.NewJSONHandler(log, nil))
	run(t, db.relay(t, &recorder{}, cfg))
	var waits []time.Duration
	eventually(t, "four tries", func() bool {
		waits = nil
		for line := range strings.Lines(log.String()) {
			var said struct {
				Msg  string
				Wait time.Duration
			}
			if json.Unmarshal([]byte(line), &said) == nil && strings.Contains(said.Msg, "not listening") {
				waits = append(waits, said.Wait)
			}
		}
		return len(waits) >= 4
	})
	require.Greater(t, waits[3], waits[0], "a fourth one is four times a first one at least")
}

// F49: a connection goes silent without being closed, at each kind of statement that a relay sends, while its lease is renewed over
// another one. The relay gives the connection up and goes on: nobody else can have its partitions meanwhile.
func TestSilentConnections(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"relay/pgx", "relay/sql", "consumer/pgx", "consumer/sql"} {
		if strings.HasSuffix(kind, "sql") && !dbtest.GivesUp() {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			direct := newDatabase(t, "pgx")
			direct.Migrate(t, *writer)
			direct.effects(t)
			proxy := pgfault.New(t, direct.URL)
			db := through(t, path.Base(kind), proxy.URL())
			cfg := mortal()
			cfg.PublishTimeout, cfg.MaxCrashes = 2*time.Second, 1000 // on a busy machine it loses its lease in other ways, too
			var mu sync.Mutex
			refused := map[string]bool{}
			refuse := func(e outbox.Event) error { // the first event of each round, at first
				mu.Lock()
				defer mu.Unlock()
				if e.Type != "0" || e.AggregateID != "a0" || refused[e.ID.String()] {
					return nil
				}
				refused[e.ID.String()] = true
				return errors.New("the first time")
			}
			r := &recorder{fail: refuse}
			start := func() (stop func()) {
				if strings.HasPrefix(kind, "relay") {
					return run(t, db.relay(t, r, cfg))
				}
				return run(t, db.consumer(t, func(ctx context.Context, tx endstate.Tx, e outbox.Event) error {
					if err := refuse(e); err != nil {
						return err
					}
					return apply(ctx, tx, e)
				}, cfg))
			}
			// A round has all that a relay does: it starts, takes over from one that died, publishes, parks an event, tries that again,
			// fetches a large payload, and stops.
			rounds := 0
			round := func() {
				rounds++
				direct.Exec(t, "TRUNCATE endstate_outbox_incarnation") // as after a crash of the server
				stop := start()
				eventually(t, "the partitions are taken", func() bool {
					return outboxdbtest.One[bool](t, direct, "SELECT count(owner) = 8 FROM endstate_outbox_cursors")
				})
				direct.Exec(t, "UPDATE endstate_outbox_cursors SET careful = 1")
				direct.aggregates(t, 10, 3)
				large := event("large", "")
				large.Payload = []byte(`"` + strings.Repeat("x", 20_000) + `"`)
				direct.Put(t, large)
				direct.settled(t)
				stop()
			}
			begins := func(sql string) string {
				sql = strings.Join(strings.Fields(sql), " ")
				if i := strings.IndexAny(sql, "'$"); i > 0 { // a driver may put values into the text
					sql = sql[:i]
				}
				return sql[:min(len(sql), 60)]
			}
			var statements []string
			proxy.Arm(&pgfault.Fault{Do: pgfault.Delay, Match: func(sql string) bool {
				mu.Lock()
				defer mu.Unlock()
				if b := begins(sql); !slices.Contains(statements, b) {
					statements = append(statements, b)
				}
				return len(statements) == 1 // it has to fire somewhere
			}})
			round()
			mu.Lock()
			all := slices.Clone(statements)
			mu.Unlock()
			// Of the many with which it looks at the tables, in the first transaction, that one's beginning and end do.
			first := func(verb string) int {
				return slices.IndexFunc(all, func(s string) bool { return strings.HasPrefix(strings.ToLower(s), verb) })
			}
			begin, commit := first("begin"), first("commit")
			require.True(t, 0 < begin && begin < commit, "%q", all)
			all = slices.Concat(all[:1], all[begin:begin+2], all[commit:])
			require.Greater(t, len(all), 15)
			var faults []*pgfault.Fault
			for _, s := range all {
				faults = append(faults, proxy.Arm(&pgfault.Fault{Match: func(sql string) bool { return begins(sql) == s }, Do: pgfault.HalfOpen}))
			}
			for faults = slices.DeleteFunc(faults, (*pgfault.Fault).HasFired); len(faults) > 0; faults = slices.DeleteFunc(faults, (*pgfault.Fault).HasFired) {
				round()
			}
			direct.settled(t)
			if strings.HasPrefix(kind, "consumer") {
				direct.requireOnce(t)
				return
			}
			published := map[string]bool{}
			for _, e := range r.published() {
				published[e.ID.String()] = true
			}
			require.Len(t, published, rounds*31)
		})
	}
}
