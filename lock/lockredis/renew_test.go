package lockredis

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
)

// answers is a lease whose renewals a test answers.
type answers struct {
	renewal func(context.Context) error
	onLoss  func(error)
}

func (a answers) renew(ctx context.Context) error { return a.renewal(ctx) }
func (a answers) lose(err error)                  { a.onLoss(err) }

// keeping starts a keeper of a lease of nine seconds whose renewals a test answers, and notes when they came.
func keeping(answer func(n int) error) (k *keeper, asked *[]time.Duration, lost *error) {
	asked, lost = new([]time.Duration), new(error)
	start := time.Now()
	k = &keeper{ttl: 9 * time.Second, margin: 900 * time.Millisecond, again: time.Second, lease: answers{
		renewal: func(context.Context) error {
			*asked = append(*asked, time.Since(start))
			return answer(len(*asked))
		},
		onLoss: func(err error) { *lost = err },
	}}
	k.start(context.Background(), start)
	return k, asked, lost
}

func TestRenewsAtAThirdOfTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, asked, lost := keeping(func(int) error { return nil })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, []time.Duration{3 * time.Second, 6 * time.Second, 9 * time.Second}, *asked)
		require.NoError(t, k.end())
		require.NoError(t, *lost)
	})
}

func TestARenewalThatFailsIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("away")
		k, asked, lost := keeping(func(n int) error {
			if n < 3 {
				return away
			}
			return nil
		})
		time.Sleep(9 * time.Second)
		synctest.Wait()
		require.Equal(t, []time.Duration{3 * time.Second, 4 * time.Second, 5 * time.Second, 8 * time.Second}, *asked)
		require.NoError(t, k.end())
		require.NoError(t, *lost)
	})
}

func TestLostBeforeTheTTLEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start, away := time.Now(), errors.New("away")
		var lostAfter time.Duration
		k := &keeper{ttl: 9 * time.Second, margin: 900 * time.Millisecond, again: time.Second, lease: answers{
			renewal: func(ctx context.Context) error { <-ctx.Done(); return errors.Join(away, ctx.Err()) }, // it hangs
			onLoss:  func(error) { lostAfter = time.Since(start) },
		}}
		k.start(t.Context(), start)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		require.Equal(t, 8100*time.Millisecond, lostAfter)
		err := k.end()
		require.ErrorIs(t, err, lock.ErrLost)
		require.ErrorIs(t, err, away)
	})
}

func TestLostByTheServicesWord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, asked, lost := keeping(func(int) error { return lock.ErrLost })
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Len(t, *asked, 1)
		require.ErrorIs(t, *lost, lock.ErrLost)
		require.ErrorIs(t, k.end(), lock.ErrLost)
	})
}

// F12: a process that was stopped finds its lease over when it goes on, and asks for nothing.
func TestLostWhileNobodyLooked(t *testing.T) {
	k := &keeper{ttl: 9 * time.Second, margin: time.Second, lease: answers{
		renewal: func(context.Context) error { panic("asked") },
		onLoss:  func(error) {},
	}}
	k.start(t.Context(), time.Now().Add(-time.Minute))
	require.ErrorIs(t, k.end(), lock.ErrLost)
}

func TestBreaker(t *testing.T) {
	b := &breaker{failures: 3, pause: time.Second}
	now, away := time.Now(), errors.New("away")
	for range 3 {
		require.NoError(t, b.allow(now))
		b.report(now, away)
	}
	err := b.allow(now.Add(999 * time.Millisecond))
	require.ErrorIs(t, err, lock.ErrUnavailable)
	require.ErrorIs(t, err, away)

	now = now.Add(time.Second)
	require.NoError(t, b.allow(now), "one asks again")
	require.Error(t, b.allow(now), "and the others wait for what comes of it")
	b.report(now, away)
	require.Error(t, b.allow(now.Add(999*time.Millisecond)))

	now = now.Add(time.Second)
	require.NoError(t, b.allow(now))
	b.report(now, nil)
	for range 2 {
		require.NoError(t, b.allow(now))
		b.report(now, away)
	}
	require.NoError(t, b.allow(now), "the count began anew")
}
