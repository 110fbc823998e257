package finalize

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// sessionRow is the answer of a session that can only read.
type sessionRow struct{ age time.Duration }

func (a sessionRow) Scan(dest ...any) error {
	*dest[0].(*bool), *dest[1].(*float64) = true, a.age.Seconds()
	time.Sleep(time.Second)
	return nil
}

// F20: a connection that is older than the call by less than an answer takes is older than the call all the same.
func TestASessionsAgeIsComparedWhenItIsAsked(t *testing.T) {
	t.Parallel()
	for older, stale := range map[time.Duration]bool{10 * time.Millisecond: true, -10 * time.Millisecond: false} {
		synctest.Test(t, func(t *testing.T) {
			a := &attempt{start: time.Now()}
			time.Sleep(50 * time.Millisecond)
			refused := errors.New("refused")
			drop, err := staleness(a.start, refused, func() sessionRow {
				age := time.Since(a.start) + older
				time.Sleep(time.Second) // the answer's way: drivers wait for its beginning when they send the query
				return sessionRow{age}
			})
			require.True(t, drop)
			require.ErrorIs(t, err, refused)
			require.Equal(t, stale, errors.Is(err, errStale))
		})
	}
}
