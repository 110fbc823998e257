package sqlplan

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A statement is bounded by what its events carry, headers too, as well as by how many they are.
func TestStatementsAreBoundedByBytes(t *testing.T) {
	t.Parallel()
	sizes := func(events []Event) (n []int) {
		for chunk := range Chunks(events) {
			n = append(n, len(chunk))
		}
		return n
	}
	events := func(n, bytes int) []Event {
		list := make([]Event, n)
		for i := range list {
			list[i].Payload = make([]byte, bytes)
		}
		return list
	}
	require.Empty(t, sizes(nil))
	require.Equal(t, []int{1000, 1000, 1}, sizes(events(2001, 10)))
	require.Equal(t, []int{16, 4}, sizes(events(20, 1<<20)))
	require.Equal(t, []int{1, 1, 1}, sizes(events(3, 64<<20)), "an event that is longer goes alone")
	headed := events(3, 0)
	for i := range headed {
		headed[i].Headers = map[string]string{"trace": strings.Repeat("x", 9<<20)}
	}
	require.Equal(t, []int{1, 1, 1}, sizes(headed))
	for range Chunks(events(2000, 1)) {
		break
	}
}
