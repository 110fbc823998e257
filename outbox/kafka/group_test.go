package kafka

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// F40: members join and leave while events come. Each event is delivered once, and an aggregate's in order.
func TestAGroupThatRebalancesUnderLoad(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var s sink
	const each, rounds = 30, 6
	aggregates := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
	publisher := c.publisher(&Config{AckTimeout: time.Minute})
	n := 0
	load := func() {
		var batch []outbox.Event
		for range each {
			for _, a := range aggregates {
				batch = append(batch, event(a, n))
			}
			n++
		}
		require.NoError(t, errors.Join(publisher.Publish(t.Context(), batch)...))
	}
	epoch := func() int32 {
		if info := c.GroupInfo("results"); info != nil {
			return info.Epoch
		}
		return 0
	}
	slow := func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		time.Sleep(time.Millisecond) // so that a rebalance finds handlers at work
		return s.handle(ctx, e)
	}
	var stops []func()
	for round := range rounds {
		before := epoch()
		load()
		if round%3 == 2 {
			stops[0]()
			stops = stops[1:]
		} else {
			stops = append(stops, c.running(slow))
		}
		load()
		eventually(t, "the group has rebalanced", func() bool { return epoch() > before })
	}
	c.eventuallyCommitted(n * len(aggregates))
	require.Len(t, s.handled(), n*len(aggregates), "each of them once")
	for _, a := range aggregates {
		require.Equal(t, upTo(n), numbers(s.handled(), a))
	}
}

// F40: the coordinator forgets a member, whose partitions others get while it is in its handler. The inbox drops what is doubled.
func TestAMemberThatTheGroupHasLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	db := newSQLite(t)
	handle := inboxed(t, db)
	c.running(handle)
	c.running(handle)
	_, err := c.WaitGroupStable(t.Context(), "results", 2)
	require.NoError(t, err)
	forgotten := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Heartbeat}, Group: "results", TopLevel: true, Err: kerr.UnknownMemberID, Count: 6})
	const n = 300
	for range 3 {
		c.publish(events(n / 3))
		c.RehashCoordinators()
	}
	require.NoError(t, forgotten.Wait(t.Context(), 6), "the fault fired")
	eventually(t, "all are handled", func() bool { return c.committed(DefaultTopic) >= n })
	requireOnceEach(t, db, n)
}

// F40: a rebalance takes partitions from a member whose Run is ending, while its handlers are still at work. The member hands over
// when they have returned, with their offsets committed.
func TestARebalanceWhileAMemberEnds(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var batch []outbox.Event
	for i := range 64 {
		batch = append(batch, event(fmt.Sprint("a", i), 0))
	}
	c.publish(batch)
	inside, finish := make(chan context.Context, len(batch)), make(chan struct{})
	var s, other sink
	stop := c.running(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		inside <- ctx
		<-finish
		return s.handle(context.WithoutCancel(ctx), e) // done in spite of the end, as what committed just before it is
	})
	var ctx context.Context
	for range 8 {
		ctx = <-inside
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	<-ctx.Done()
	epoch := c.GroupInfo("results").Epoch
	c.running(other.handle)
	eventually(t, "the group rebalances", func() bool { return c.GroupInfo("results").Epoch > epoch })
	require.Empty(t, other.handled(), "none goes to another member before its handler has returned")
	close(finish)
	<-stopped
	c.eventuallyCommitted(len(batch))
	require.Len(t, s.handled(), 8)
	require.Len(t, other.handled(), len(batch)-8, "each of them once")
}

// F40: a member's Run ends while a rebalance waits for the handlers of another one. What it handled meanwhile is committed when that
// goes on, and the group is told.
func TestAMemberEndsWhileAnotherHandsOver(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	c.dials = []kgo.Opt{kgo.SessionTimeout(time.Minute)} // kfake ends the session of a member that waits for others to rejoin, as Kafka does not
	round := func(n int) {
		var batch []outbox.Event
		for i := range 64 {
			batch = append(batch, event(fmt.Sprint("a", i), n))
		}
		c.publish(batch)
	}
	inside, finish := make(chan struct{}, 128), make(chan struct{})
	release := sync.OnceFunc(func() { close(finish) })
	defer release()
	var busy, ending, joining sink
	c.running(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		inside <- struct{}{}
		<-finish
		return busy.handle(ctx, e)
	}, func(cfg *ConsumerConfig) { cfg.HandOverTimeout = time.Hour })
	stop := c.running(ending.handle)
	eventually(t, "each has its half", func() bool {
		info := c.GroupInfo("results")
		return info != nil && info.State == "Stable" && len(info.Members) == 2 && info.Members[0].NumAssigned() == 4 && info.Members[1].NumAssigned() == 4
	})
	round(0)
	for range 4 {
		<-inside
	}
	c.running(joining.handle)
	eventually(t, "the group waits for the busy one to rejoin", func() bool {
		info := c.GroupInfo("results")
		return len(info.Members) == 3 && info.State == "PreparingRebalance"
	})
	before := len(ending.handled())
	round(1)
	eventually(t, "the other one goes on meanwhile", func() bool { return len(ending.handled()) > before })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	select {
	case <-stopped: // it hadn't heard of the rebalance yet, and so commits and leaves without waiting
	case <-time.After(leaveTimeout + time.Second): // in which it gives nothing up, however long it takes
	}
	release()
	<-stopped
	eventually(t, "the group goes on without it", func() bool { return len(c.GroupInfo("results").Members) == 2 })
	c.eventuallyCommitted(128)
	require.Len(t, slices.Concat(busy.handled(), ending.handled(), joining.handled()), 128, "each of them once")
}

// A handler whose partition goes to another member may finish within HandOverTimeout; then its context ends.
func TestAHandlerThatHoldsUpARebalance(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	c.publish(events(40))
	var ended atomic.Int32
	stuck := make(chan struct{}, 40)
	c.running(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		stuck <- struct{}{}
		<-ctx.Done()
		ended.Add(1)
		return inbox.Result{}, ctx.Err()
	}, func(cfg *ConsumerConfig) { cfg.HandOverTimeout = 50 * time.Millisecond })
	<-stuck
	var s sink
	c.running(s.handle)
	_, err := c.WaitGroupStable(t.Context(), "results", 2)
	require.NoError(t, err)
	eventually(t, "the other one handles its share", func() bool { return len(s.handled()) > 0 })
	require.Positive(t, ended.Load())
}

// memberEnv has what a member in a process of its own needs.
const memberEnv = "ENDSTATE_KAFKA_TEST_MEMBER"

// runMember is a member of the group in a process of its own. At its third event it stops, until it is killed.
func runMember(arguments string) {
	seeds, path, _ := strings.Cut(arguments, "|")
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(60000)&_pragma=journal_mode(wal)")
	check(err)
	table, err := inbox.NewTableSQL(db, &inbox.TableConfig{Consumer: "results", Logger: silent})
	check(err)
	handle := inbox.Handle(table, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO credits VALUES (?)`, e.ID.String()); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
		return nil
	})
	var handled atomic.Int32
	consumer, err := NewConsumer(func(ctx context.Context, e outbox.Event) (inbox.Result, error) {
		result, err := handle(ctx, e)
		if err == nil && handled.Add(1) == 3 {
			fmt.Println("the effect is there, and no offset is committed")
			select {} // until it is killed
		}
		return result, err
	}, &ConsumerConfig{Group: "results", Logger: silent}, append(memberOf(strings.Split(seeds, ",")), kgo.AutoCommitInterval(time.Hour))...)
	check(err)
	check(consumer.Run(context.Background()))
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// F40: members are killed between the effect and its offset's commit. Others go on from there, and no effect is doubled.
func TestMembersAreKilled(t *testing.T) {
	t.Parallel()
	c := startCluster(t, kfake.SeedTopics(2, DefaultTopic))
	path := filepath.Join(t.TempDir(), "test.db")
	db := openSQLite(t, path)
	handle := inboxed(t, db)
	const n = 100
	c.publish(events(n))
	for range 2 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), memberEnv+"="+strings.Join(c.ListenAddrs(), ",")+"|"+path)
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		line := make([]byte, 10)
		_, err = out.Read(line)
		require.NoError(t, err)
		require.Equal(t, "the effect", string(line), "the fault fires")
		require.NoError(t, cmd.Process.Kill())
		_ = cmd.Wait() // says that it was killed
	}
	require.Zero(t, c.committed(DefaultTopic))
	c.running(handle)
	c.eventuallyCommitted(n)
	requireOnceEach(t, db, n)
}
