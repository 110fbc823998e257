package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A relay that doesn't end, since its database or its publisher hangs, keeps the command no longer than the bound after the signal,
// nor after another one has failed; and what is said has both.
func TestARelayThatDoesNotEndIsLeftBehind(t *testing.T) {
	t.Parallel()
	hangs := make(chan struct{})
	defer close(hangs)
	hanging := func(context.Context) error { <-hangs; return nil }
	ending := func(ctx context.Context) error { <-ctx.Done(); return nil }
	relaying := func(runs ...func(context.Context) error) *relaying {
		r := &relaying{app: &app{}}
		for _, run := range runs {
			r.subscriptions = append(r.subscriptions, &subscribed{run: run})
		}
		return r
	}
	signaled, stop := context.WithCancel(t.Context())
	stop()
	err := relaying(ending, hanging).runAll(signaled, 10*time.Millisecond)
	require.EqualError(t, err, "did not end within 10ms: others get its partitions after --lease-ttl")
	require.NoError(t, relaying(ending, ending).runAll(signaled, time.Minute))

	refused := errors.New("no such table")
	err = relaying(hanging, func(context.Context) error { return refused }).runAll(t.Context(), 10*time.Millisecond)
	require.ErrorIs(t, err, refused)
	require.ErrorContains(t, err, "did not end within 10ms")
	require.ErrorIs(t, relaying(ending, func(context.Context) error { return refused }).runAll(t.Context(), time.Minute), refused, "the others are told to end")
}
