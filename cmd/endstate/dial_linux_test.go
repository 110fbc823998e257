package main

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/endstate-go/endstate/internal/dbtest"
)

// A step of an adoption may take hours, in which nothing is to be heard of its connection: the kernel asks whether somebody is there.
func TestConnectionsThatGoSilentAreGivenUp(t *testing.T) {
	t.Parallel()
	db, err := openPostgres(t.Context(), dbtest.Postgres(t))
	require.NoError(t, err)
	defer db.close()
	conn, err := db.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	raw, err := conn.Conn().PgConn().Conn().(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	var options []int
	require.NoError(t, raw.Control(func(fd uintptr) {
		for _, option := range []int{unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT, unix.TCP_USER_TIMEOUT} {
			value, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, option)
			require.NoError(t, err)
			options = append(options, value)
		}
	}))
	require.Equal(t, []int{15, 5, 3, 30_000}, options, "seconds of silence, between questions, questions, and milliseconds for what was sent")
}
