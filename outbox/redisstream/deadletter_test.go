package redisstream

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

const dead = DefaultStream + ":dead"

// Redis refuses a dead letter: the entry stays pending, until there is a letter of it.
func TestARefusedDeadLetterIsNotAcknowledged(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(1))
	require.NoError(t, rdb.Set(t.Context(), dead, "no stream", 0).Err())
	s := sink{answer: func(int, outbox.Event) error { return outbox.Permanent(errors.New("no such account")) }}
	var log dbtest.Log
	running(t, member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) }))
	eventually(t, "it is delivered again", func() bool { return s.total.Load() > 2 })
	require.Contains(t, log.String(), "could not be kept in endstate:events:dead: WRONGTYPE")
	require.NoError(t, rdb.Del(t.Context(), dead).Err())
	eventually(t, "it is a dead letter", func() bool { return rdb.XLen(t.Context(), dead).Val() == 1 && pending(rdb) == 0 })
}

// Redis refuses the letter of an event that was delivered too often. Those that are claimed with it are handled all the same.
func TestARefusedDeadLetterHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	publish(t, rdb, events(5))
	require.NoError(t, rdb.XGroupCreate(t.Context(), DefaultStream, "results", "0").Err())
	require.NoError(t, rdb.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "results", Consumer: "gone", Streams: []string{DefaultStream, ">"}}).Err())
	for range 3 {
		require.NoError(t, rdb.XAutoClaim(t.Context(), &redis.XAutoClaimArgs{Stream: DefaultStream, Group: "results", Consumer: "gone", Start: "0-0", Count: 1}).Err())
	}
	require.NoError(t, rdb.Set(t.Context(), dead, "no stream", 0).Err())
	var s sink
	running(t, member(t, rdb, s.handle, func(cfg *ConsumerConfig) { cfg.MaxDeliveries = 3 }))
	eventually(t, "the others are acknowledged", func() bool { return s.total.Load() == 4 && pending(rdb) == 1 })
	require.NoError(t, rdb.Del(t.Context(), dead).Err())
	eventually(t, "the first is a dead letter", func() bool { return rdb.XLen(t.Context(), dead).Val() == 1 && pending(rdb) == 0 })
	require.EqualValues(t, 4, s.total.Load())
}

// A dead letter that can't be put back into the stream stays one.
func TestADeadLetterThatCannotBeRedeliveredStays(t *testing.T) {
	t.Parallel()
	rdb := dbtest.Redis(t)
	var s sink
	c := member(t, rdb, s.handle)
	publish(t, rdb, events(1))
	entry := rdb.XRange(t.Context(), DefaultStream, "-", "+").Val()[0]
	require.NoError(t, c.bury(t.Context(), entry, errors.New("no such account")))
	require.NoError(t, rdb.Set(t.Context(), DefaultStream, "no stream", 0).Err())
	n, err := c.Redeliver(t.Context(), 10)
	require.ErrorContains(t, err, "WRONGTYPE")
	require.Zero(t, n)
	require.EqualValues(t, 1, rdb.XLen(t.Context(), dead).Val())
}
