package finalize

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestIdleIsWarnedOfAgainWhenItHasDoubled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []time.Duration
		w := &idleWatch{warn: func(idle time.Duration) { told = append(told, idle) }, patience: time.Second, began: time.Now()}
		w.start()
		time.Sleep(5 * time.Second)
		w.stop()
		time.Sleep(time.Minute)
		require.Equal(t, []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}, told)
	})
}
