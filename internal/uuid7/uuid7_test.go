package uuid7

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

func TestNew(t *testing.T) {
	var s Source
	before := time.Now().Truncate(time.Millisecond)
	last, rest := uuid.Nil, map[[8]byte]bool{}
	for range 1000 {
		id := s.New()
		require.Equal(t, uuid.Version(7), id.Version())
		require.Equal(t, uuid.RFC4122, id.Variant())
		require.Positive(t, bytes.Compare(id[:], last[:]), "%v after %v", id, last)
		sec, nsec := id.Time().UnixTime()
		require.WithinRange(t, time.Unix(sec, nsec), before, time.Now())
		last, rest[[8]byte(id[8:])] = id, true
	}
	require.Len(t, rest, 1000)
	require.Zero(t, testing.AllocsPerRun(100, func() { s.New() }))
}

func TestNewFromManyGoroutines(t *testing.T) {
	t.Parallel()
	var s Source
	var seen sync.Map
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				if _, twice := seen.LoadOrStore(s.New(), true); twice {
					t.Error("an id was made twice")
				}
			}
		})
	}
	group.Wait()
}
