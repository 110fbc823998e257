package finalize

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// What the database lacks is known for a second; that it lacks nothing is looked at each time.
func TestWhatIsLackingIsAskedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lack
		asked, lacking := 0, errors.New("no table")
		check := func() error { asked++; return lacking }
		for range 1000 {
			require.ErrorIs(t, l.ask(check), lacking)
		}
		require.Equal(t, 1, asked)
		time.Sleep(time.Second + 1)
		lacking = nil
		require.NoError(t, l.ask(check))
		require.NoError(t, l.ask(check))
		require.Equal(t, 3, asked)
	})
}
