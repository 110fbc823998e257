package relay

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What a dead relay may have had in flight isn't tried while the destination takes nothing.
func TestSuspectsWaitForTheDestination(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	s.putNow("1", "2")
	s.exec("UPDATE endstate_outbox_cursors SET careful = 1")
	s.careful = true
	n, err := s.beCareful(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, n, "they are parked")
	s.gauge.until = time.Now().Add(time.Hour)
	n, err = s.beCareful(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
	s.requirePublished()
	s.gauge.until = time.Time{}
	for _, published := range [][]string{{"1"}, {"1", "2"}} {
		n, err = s.beCareful(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, n)
		s.requirePublished(published...)
	}
}
