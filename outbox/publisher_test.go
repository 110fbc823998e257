package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

func TestPublisherFuncReportsEachEvent(t *testing.T) {
	refused := errors.New("refused")
	p := outbox.PublisherFunc(func(_ context.Context, event outbox.Event) error {
		if event.Type == "bad" {
			return outbox.Permanent(refused)
		}
		return nil
	})
	errs := p.Publish(t.Context(), []outbox.Event{{Type: "good"}, {Type: "bad"}, {Type: "good"}})
	require.Len(t, errs, 3)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], outbox.ErrPermanent)
	require.ErrorIs(t, errs[1], refused)
	require.NoError(t, errs[2])
	require.Nil(t, p.Publish(t.Context(), []outbox.Event{{Type: "good"}}))
}

func TestChannelCountsAsPublishedWhenReceived(t *testing.T) {
	events := make(chan outbox.Event)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan outbox.Event, 1)
	go func() { got <- <-events; cancel() }()
	errs := outbox.Channel(events).Publish(ctx, []outbox.Event{{Type: "first"}, {Type: "second"}})
	require.Equal(t, "first", (<-got).Type)
	require.Len(t, errs, 2)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], context.Canceled)
}
