package outboxtest_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/outboxtest"
)

func TestRecorderKeepsCopies(t *testing.T) {
	var r outboxtest.Recorder
	e := outbox.Event{ID: uuid.New(), Type: "t", Payload: []byte("payload"), Headers: map[string]string{"a": "b"}}
	require.Empty(t, r.Publish(t.Context(), []outbox.Event{e}))
	e.Payload[0] = '?'
	clear(e.Headers)
	require.Equal(t, []outbox.Event{{ID: e.ID, Type: "t", Payload: []byte("payload"), Headers: map[string]string{"a": "b"}}}, r.Events())
}

func TestRecorderFailsOnDemand(t *testing.T) {
	var r outboxtest.Recorder
	down := errors.New("down")
	r.Answer(func(_ context.Context, e outbox.Event) error {
		if e.Type == "bad" {
			return down
		}
		return nil
	})
	batch := []outbox.Event{{Type: "good"}, {Type: "bad"}}
	require.Equal(t, []error{nil, down}, r.Publish(t.Context(), batch))
	require.Len(t, r.Events(), 1)
	r.Answer(nil)
	require.Empty(t, r.Publish(t.Context(), batch))
	require.Len(t, r.Events(), 3)
}

func TestRecorderIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r outboxtest.Recorder
		go func() {
			for i := range 3 {
				time.Sleep(time.Second)
				r.Publish(context.Background(), []outbox.Event{{AggregateType: "order", AggregateID: fmt.Sprint(i), Type: "charged", Payload: []byte("{}")}})
			}
		}()
		start := time.Now()
		require.Len(t, r.Wait(t, 2), 2)
		require.Equal(t, 2*time.Second, time.Since(start))
		require.Len(t, r.Wait(t, 3), 3)
		require.Len(t, r.Wait(t, 1), 3, "there are more than asked for")

		failed := try(func(t testing.TB) { r.Wait(t, 4) })
		require.Equal(t, "outboxtest: waited 10s for 4 events, and there are 3:\n  charged  order 0  {}\n  charged  order 1  {}\n  charged  order 2  {}", failed)
	})
}

// try runs a test that should fail, and returns how it failed.
func try(test func(testing.TB)) string {
	t := &failing{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(t)
	}()
	<-done
	return t.message
}
