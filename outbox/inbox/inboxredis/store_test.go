package inboxredis_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newClaims(t *testing.T, client redis.UniversalClient, cfg inbox.ClaimsConfig) *inbox.Claims {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	store, err := inboxredis.New(client, "")
	require.NoError(t, err)
	claims, err := inbox.NewClaims(store, &cfg)
	require.NoError(t, err)
	return claims
}

func event() outbox.Event {
	return outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: "batch-1", Type: "assessment.completed", Payload: []byte(`{"credits":5}`)}
}

func TestWhatIsInRedis(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	way := newClaims(t, client, inbox.ClaimsConfig{Consumer: "entitlements", Lease: time.Minute, Retention: time.Hour})
	e := event()
	key := "endstate:inbox:entitlements:" + e.ID.String()
	_, err := inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
		require.Equal(t, "claimed", client.HGet(ctx, key, "state").Val())
		require.InDelta(t, time.Minute, client.PTTL(ctx, key).Val(), float64(10*time.Second))
		return nil
	})(t.Context(), e)
	require.NoError(t, err)
	require.Equal(t, "handled", client.HGet(t.Context(), key, "state").Val())
	require.InDelta(t, time.Hour, client.PTTL(t.Context(), key).Val(), float64(10*time.Second))

	// A failure gives the claim back, also when the consumer is being stopped.
	ctx, cancel := context.WithCancel(t.Context())
	_, err = inbox.Handle(way, func(ctx context.Context, event outbox.Event) error {
		cancel()
		return ctx.Err()
	})(ctx, event())
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, []string{key}, client.Keys(t.Context(), "*").Val())
}

func TestConsumersWithColonsDoNotShareKeysInRedis(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	for consumer, key := range map[string]string{"credit": "refund:1", "credit:refund": "1", "credit%3Arefund": "1"} {
		way := newClaims(t, client, inbox.ClaimsConfig{Consumer: consumer, Key: func(outbox.Event) (string, error) { return key, nil }})
		result, err := inbox.Handle(way, func(context.Context, outbox.Event) error { return nil })(t.Context(), event())
		require.NoError(t, err)
		require.Equal(t, inbox.Applied, result.Outcome, "%s, %s", consumer, key)
	}
}

func TestAPrefixKeepsStoresApart(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	for _, prefix := range []string{"one", "two"} {
		store, err := inboxredis.New(client, prefix)
		require.NoError(t, err)
		other, err := store.Claim(t.Context(), "c:k", inbox.Claim{EventID: prefix, Token: prefix}, time.Minute)
		require.NoError(t, err)
		require.Nil(t, other)
	}
	require.ElementsMatch(t, []string{"one:c:k", "two:c:k"}, client.Keys(t.Context(), "*").Val())
	_, err := inboxredis.New(nil, "")
	require.ErrorIs(t, err, inbox.ErrConfig)
	patient := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", ReadTimeout: -1})
	defer patient.Close()
	_, err = inboxredis.New(patient, "")
	require.ErrorIs(t, err, inbox.ErrConfig)
	require.ErrorContains(t, err, "no ReadTimeout")
}

// What another program keeps under a key of ours is no claim, and nothing to believe.
func TestARecordThatIsNoneIsAnError(t *testing.T) {
	t.Parallel()
	client := dbtest.Redis(t)
	store, err := inboxredis.New(client, "")
	require.NoError(t, err)
	require.NoError(t, client.HSet(t.Context(), "endstate:inbox:c:k", "state", "busy", "token", "theirs").Err())
	_, err = store.Claim(t.Context(), "c:k", inbox.Claim{EventID: "e", Token: "ours"}, time.Minute)
	require.EqualError(t, err, `inboxredis: Redis holds a record in state "busy"`)
}
