package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A destination that takes something, or did lately, is asked again soon, whatever it says; another one gets the time it asks for.
func TestHowLongARefusalPauses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tt := range []struct {
		name         string
		lastTaken    time.Duration
		taken        int
		after, pause time.Duration
	}{
		{"takes some", recently, 1, time.Hour, time.Second},
		{"took some lately", recently - 1, 0, time.Hour, time.Second},
		{"takes nothing", recently, 0, time.Hour, maxPause},
		{"takes nothing for a while", recently, 0, 10 * time.Second, 10 * time.Second},
		{"takes nothing for a moment", recently, 0, time.Millisecond, minOutage},
	} {
		g := gauge{low: minOutage, high: maxOutage, taken: now.Add(-tt.lastTaken)}
		g.refused(tt.taken, tt.after, now)
		require.Equal(t, tt.pause, g.until.Sub(now), tt.name)
	}
}

// What the fields' comments say of their defaults.
func TestConfigDefaults(t *testing.T) {
	t.Parallel()
	cfg, err := (&Config{}).withDefaults()
	require.NoError(t, err)
	require.Equal(t, 1000, cfg.BatchSize)
	require.Equal(t, 30*time.Second, cfg.PublishTimeout)
	require.Equal(t, 10*time.Second, cfg.ShutdownTimeout)
	require.Equal(t, time.Second, cfg.PollInterval)
	require.Equal(t, 10*time.Second, cfg.LeaseTTL)
	require.Equal(t, time.Second, cfg.MinBackoff)
	require.Equal(t, 10*time.Minute, cfg.MaxBackoff)
	require.Equal(t, 100, cfg.MaxAttempts)
	require.Equal(t, 3, cfg.MaxCrashes)
}
