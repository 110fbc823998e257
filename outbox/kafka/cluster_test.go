package kafka

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/endstate-go/endstate/outbox"
)

var silent = slog.New(slog.DiscardHandler)

// cluster is a kfake of three brokers.
type cluster struct {
	*kfake.Cluster
	t     *testing.T
	wire  wire
	dials []kgo.Opt // besides the wire's
}

// startCluster has the topic "events" of eight partitions, unless opts seed others too.
func startCluster(t *testing.T, opts ...kfake.Opt) *cluster {
	t.Helper()
	c := &cluster{t: t}
	c.start(opts...)
	t.Cleanup(func() { c.Close() })
	return c
}

func (c *cluster) start(opts ...kfake.Opt) {
	c.t.Helper()
	all := append([]kfake.Opt{kfake.NumBrokers(3), kfake.SeedTopics(8, DefaultTopic), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)
	var err error
	c.Cluster, err = kfake.NewCluster(all...)
	require.NoError(c.t, err)
}

// seeds are the options with which a client finds the brokers, past the wire.
func (c *cluster) seeds() []kgo.Opt {
	return append([]kgo.Opt{kgo.SeedBrokers(c.ListenAddrs()...)}, c.dials...)
}

// publisher makes a Publisher whose connections go over the wire, until the test ends.
func (c *cluster) publisher(cfg *Config, opts ...kgo.Opt) *Publisher {
	c.t.Helper()
	if cfg == nil {
		cfg = &Config{}
	}
	if cfg.Logger == nil {
		cfg.Logger = silent
	}
	// Without the client's reports on itself: what waits for a connection of theirs, while the wire is held, holds requests up.
	p, err := New(cfg, append(append(c.seeds(), kgo.Dialer(c.wire.dial), kgo.DisableClientMetrics()), opts...)...)
	require.NoError(c.t, err)
	c.t.Cleanup(p.Close)
	return p
}

// records returns what a topic holds, partition by partition.
func (c *cluster) records(ctx context.Context, topic string) ([]*kgo.Record, error) {
	from, total := map[int32]kgo.Offset{}, int64(0)
	for _, p := range c.PartitionInfos(topic) {
		if n := p.HighWatermark - p.LogStartOffset; n > 0 {
			from[p.Partition], total = kgo.NewOffset().AtStart(), total+n
		}
	}
	if total == 0 {
		return nil, nil
	}
	client, err := kgo.NewClient(append(c.seeds(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var all []*kgo.Record
	for int64(len(all)) < total {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		all = append(all, fetches.Records()...)
	}
	return all, nil
}

// stored returns the events of topics.
func (c *cluster) stored(ctx context.Context, topics ...string) ([]outbox.Event, error) {
	var events []outbox.Event
	for _, topic := range topics {
		records, err := c.records(ctx, topic)
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			e, err := Decode(r.Headers, r.Value)
			if err != nil {
				return nil, err
			}
			events = append(events, e)
		}
	}
	return events, nil
}

// mustStored returns the events of topics, by the type of which each aggregate's are in order.
func (c *cluster) mustStored(topics ...string) []outbox.Event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	events, err := c.stored(ctx, topics...)
	require.NoError(c.t, err)
	return events
}

// events makes events, each of an aggregate of its own.
func events(n int) []outbox.Event {
	all := make([]outbox.Event, n)
	for i := range all {
		all[i] = event(fmt.Sprint(i), 0)
	}
	return all
}

// event makes the n-th event of an aggregate, whose payload has the number.
func event(aggregate string, n int) outbox.Event {
	return outbox.Event{
		ID: uuid.New(), AggregateType: "batch", AggregateID: aggregate, Type: "assessment.completed", Payload: fmt.Append(nil, n),
		ContentType: "application/json", OccurredAt: time.Now().UTC().Truncate(time.Microsecond), SchemaVersion: 1,
	}
}

// numbers returns the payloads of an aggregate's events in their order, each at its first occurrence.
func numbers(all []outbox.Event, aggregate string) (numbers []int) {
	seen := map[uuid.UUID]bool{}
	for _, e := range all {
		if e.AggregateID != aggregate || seen[e.ID] {
			continue
		}
		seen[e.ID] = true
		var n int
		_, _ = fmt.Sscan(string(e.Payload), &n)
		numbers = append(numbers, n)
	}
	return numbers
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 10*time.Millisecond, what)
}

// newSQLite opens a new SQLite database. This module has no part of the root's internal packages: their versions may differ.
func newSQLite(t *testing.T) *sql.DB {
	t.Helper()
	return openSQLite(t, filepath.Join(t.TempDir(), "test.db"))
}

func openSQLite(t testing.TB, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)&_pragma=journal_mode(wal)")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// wire dials, and can hold what goes over its connections or lose a reply.
type wire struct {
	secure *tls.Config
	mu     sync.Mutex
	held   chan struct{} // nil: nothing is held
	lose   atomic.Int32  // so many more replies to produce requests get lost
	lost   atomic.Int32
}

func (w *wire) dial(ctx context.Context, network, host string) (net.Conn, error) {
	w.mu.Lock()
	held := w.held
	w.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	if w.secure != nil {
		conn = tls.Client(conn, w.secure)
	}
	return &wired{Conn: conn, wire: w, closed: make(chan struct{})}, nil
}

// hold stops all that is read, so that requests arrive and replies don't.
func (w *wire) hold() (release func()) {
	held := make(chan struct{})
	w.mu.Lock()
	w.held = held
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		w.held = nil
		w.mu.Unlock()
		close(held)
	}
}

var errLost = errors.New("the connection was cut")

// wired is one connection.
type wired struct {
	net.Conn
	*wire
	produces atomic.Bool
	deadline atomic.Pointer[time.Time] // of reading
	once     sync.Once
	closed   chan struct{}
}

func (c *wired) SetReadDeadline(t time.Time) error {
	c.deadline.Store(&t)
	return c.Conn.SetReadDeadline(t)
}

func (c *wired) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *wired) Write(p []byte) (int, error) {
	if len(p) >= 6 && p[4] == 0 && p[5] == 0 { // a produce request, after its length
		c.produces.Store(true)
	}
	return c.Conn.Write(p)
}

func (c *wired) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	held := c.held
	c.mu.Unlock()
	if held != nil && err == nil {
		var late <-chan time.Time
		if deadline := c.deadline.Load(); deadline != nil && !deadline.IsZero() {
			late = time.After(time.Until(*deadline))
		}
		select {
		case <-held:
		case <-late:
			return 0, os.ErrDeadlineExceeded
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	if n > 0 && c.produces.Load() && c.lose.Add(-1) >= 0 {
		c.lost.Add(1)
		_ = c.Close()
		return 0, errLost
	}
	return n, err
}

// recorded keeps what is logged.
type recorded struct {
	mu   sync.Mutex
	text strings.Builder
}

func (r *recorded) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *recorded) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

func (r *recorded) has(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.text.String(), part)
}
