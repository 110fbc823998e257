package relay_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// The tests of this file run relays in processes of their own: this test binary again. What they publish, they append to a
// file, which is the broker that outlives them.

const (
	childURL    = "ENDSTATE_TEST_RELAY_URL"
	childRecord = "ENDSTATE_TEST_RELAY_RECORD"
	childMode   = "ENDSTATE_TEST_RELAY_MODE"
)

// The modes of a child, besides the plain one.
const (
	holding = "holding" // having published a batch, it says so and waits for a line
	poison  = "poison"  // it dies of events of this type

	consuming = "consuming" // it is a consumer, which waits for a line at a step
)

// child is the main function of a relay's process.
func child() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	broker, err := os.OpenFile(os.Getenv(childRecord), os.O_APPEND|os.O_WRONLY, 0)
	fatal(err)
	stdin := bufio.NewReader(os.Stdin)
	publish := publisherFunc(func(ctx context.Context, batch []outbox.Event) []error {
		for _, e := range batch {
			if e.Type == poison && os.Getenv(childMode) == poison {
				fatal(syscall.Kill(os.Getpid(), syscall.SIGKILL))
				select {}
			}
			_, err := fmt.Fprintf(broker, "%s %s %s\n", e.ID, e.AggregateID, e.Type)
			fatal(err)
		}
		if os.Getenv(childMode) == holding {
			fmt.Println("published")
			_, err := stdin.ReadString('\n')
			fatal(err)
		}
		return nil
	})
	cfg := mortal()
	cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, nil))
	var rel *relay.Relay
	if step, ok := strings.CutPrefix(os.Getenv(childMode), consuming); ok {
		consumingChild(ctx, step, cfg, stdin)
		return
	}
	if url := os.Getenv(childURL); strings.HasPrefix(url, "postgres") {
		pool, err := pgxpool.New(ctx, url)
		fatal(err)
		defer pool.Close()
		rel, err = relay.New(pool, publish, cfg)
		fatal(err)
	} else {
		db, err := dbtest.OpenSQLite(url)
		fatal(err)
		defer db.Close()
		rel, err = relay.NewSQL(db, publish, cfg)
		fatal(err)
	}
	fatal(rel.Run(ctx))
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

// publisherFunc publishes batches.
type publisherFunc func(context.Context, []outbox.Event) []error

func (f publisherFunc) Publish(ctx context.Context, batch []outbox.Event) []error {
	return f(ctx, batch)
}

// process is a running child.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	in   *os.File
	said chan string
	log  *dbtest.Log
	done chan struct{}
}

// start starts a relay in a process of its own.
func (db *database) start(t *testing.T, record, mode string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(os.Args[0]), said: make(chan string, 1000), log: &dbtest.Log{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), childURL+"="+db.URL, childRecord+"="+record, childMode+"="+mode)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	read, write, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stdin, p.in = read, write
	require.NoError(t, p.cmd.Start())
	require.NoError(t, read.Close())
	go func() {
		defer close(p.done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.said <- lines.Text()
		}
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		p.wait()
		_ = write.Close()
		if t.Failed() {
			t.Logf("log of process %d:\n%s", p.cmd.Process.Pid, p.log)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) } // the one error is that it has ended

func (p *process) wait() {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		require.Fail(p.t, "the process doesn't end")
	}
}

func (p *process) await(line string) {
	p.t.Helper()
	select {
	case said := <-p.said:
		require.Equal(p.t, line, said)
	case <-time.After(time.Minute):
		require.Fail(p.t, "the process doesn't say: "+line)
	}
}

// newRecord makes the file that is the broker.
func newRecord(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "published")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return path
}

// publication is a line of the record.
type publication struct{ id, aggregate, kind string }

func publications(t *testing.T, record string) (list []publication) {
	t.Helper()
	text, err := os.ReadFile(record)
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		var p publication
		_, err := fmt.Sscan(line, &p.id, &p.aggregate, &p.kind)
		require.NoError(t, err, line)
		list = append(list, p)
	}
	return list
}

// requireDelivered checks I5 and I6 on a record: all that is in the table, with its id, and each aggregate in order, first
// publications considered. Dead events needn't be there.
func (db *database) requireDelivered(t *testing.T, record string) {
	t.Helper()
	first := map[string][]string{}
	seen := map[string]bool{}
	for _, p := range publications(t, record) {
		if !seen[p.id] {
			seen[p.id] = true
			first[p.aggregate] = append(first[p.aggregate], p.id)
		}
	}
	want := map[string][]string{}
	db.In(t, func(ctx context.Context, tx endstate.Tx) {
		rows, err := tx.Query(ctx, "SELECT aggregate_id, CAST(id AS text) FROM endstate_outbox e WHERE NOT EXISTS (SELECT 1 FROM endstate_outbox_parked p WHERE p.seq = e.seq AND p.dead_at IS NOT NULL) ORDER BY seq")
		require.NoError(t, err)
		defer rows.Close()
		for rows.Next() {
			var aggregate, id string
			require.NoError(t, rows.Scan(&aggregate, &id))
			want[aggregate] = append(want[aggregate], id)
		}
		require.NoError(t, rows.Err())
	})
	for aggregate, ids := range want {
		require.Equal(t, ids, first[aggregate], "aggregate %s", aggregate)
	}
}

// F13: killed between publish and mark.
func TestKilledBetweenPublishAndMark(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 20, 5)
		record := newRecord(t)
		killed := db.start(t, record, holding)
		killed.await("published")
		before := publications(t, record)
		require.NotEmpty(t, before)
		killed.signal(syscall.SIGKILL)
		killed.wait()
		require.Equal(t, 100, db.pending(t), "no cursor was moved")

		other := db.start(t, record, "")
		db.settled(t)
		db.requireDelivered(t, record)
		after := publications(t, record)
		for _, p := range before {
			require.True(t, slices.Contains(after[len(before):], p), "what was published and not marked comes again, as it was")
		}
		other.signal(os.Interrupt.(syscall.Signal))
		other.wait()
		require.Contains(t, other.log.String(), "another relay died")
		require.Zero(t, db.parked(t, "crashes > 0"), "of many events in flight none is to blame")
	})
}

// F13: two relays, one of them stopped past its lease and woken.
func TestStoppedPastTheLease(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 20, 5)
		record := newRecord(t)
		stopped := db.start(t, record, holding)
		stopped.await("published")
		stopped.signal(syscall.SIGSTOP)
		before := outboxdbtest.One[string](t, db, "SELECT CAST(owner AS text) FROM endstate_outbox_cursors WHERE partition = 0")

		other := db.start(t, record, "")
		db.settled(t)
		db.requireDelivered(t, record)
		other.signal(syscall.SIGKILL)
		other.wait()

		_, err := fmt.Fprintln(stopped.in)
		require.NoError(t, err)
		stopped.signal(syscall.SIGCONT)
		eventually(t, "the woken relay is told", func() bool { return strings.Contains(stopped.log.String(), "lease lost") })
		require.NotEqual(t, before, outboxdbtest.One[string](t, db, "SELECT coalesce(CAST(owner AS text), '') FROM endstate_outbox_cursors WHERE partition = 0"))
		require.Contains(t, stopped.log.String(), "moves refused")
		db.requireDelivered(t, record)
	})
}

// F15: an event that kills each relay.
func TestPoisonousEventIsCountedAndThenDead(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		db.aggregates(t, 10, 3)
		bad := event(poison, "")
		bad.AggregateID = "a5"
		after := event("after", "")
		after.AggregateID = "a5"
		db.Put(t, bad, after)
		record := newRecord(t)
		starts := 0
		for db.pending(t) > 0 {
			starts++
			require.LessOrEqual(t, starts, 6, "the event isn't isolated")
			p := db.start(t, record, poison)
			eventually(t, "death, or all done", func() bool {
				select {
				case <-p.done:
					return true
				default:
					return db.pending(t) == 0
				}
			})
			p.signal(syscall.SIGKILL)
			p.wait()
		}
		require.Equal(t, 5, starts, "one in a batch, three alone, and one that finishes")
		require.Equal(t, 1, db.parked(t, "dead_at IS NOT NULL AND crashes = 3 AND last_error LIKE '%died while it published this event'"))
		require.Equal(t, poison, outboxdbtest.One[string](t, db, "SELECT e.type FROM endstate_outbox e JOIN endstate_outbox_parked p ON p.seq = e.seq AND p.dead_at IS NOT NULL"))
		db.requireDelivered(t, record)
	})
}
