package testserver

import (
	"bufio"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRedisCanBeKilledAndPaused(t *testing.T) {
	r, err := StartRedis("--maxmemory", "10mb")
	installed(t, err)
	t.Cleanup(r.Close)

	// do sends a command and returns the answer's first line.
	do := func(command string) (string, error) {
		conn, err := net.Dial("tcp", r.Addr())
		if err != nil {
			return "", err
		}
		defer conn.Close()
		require.NoError(t, conn.SetDeadline(time.Now().Add(300*time.Millisecond)))
		_, err = conn.Write([]byte(command + "\r\n"))
		require.NoError(t, err)
		line, err := bufio.NewReader(conn).ReadString('\n')
		return strings.TrimSpace(line), err
	}
	answer := func(want, command string) {
		t.Helper()
		got, err := do(command)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}

	answer("+OK", "SET a b")
	r.Pause()
	_, err = do("GET a")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	r.Resume()
	answer("$1", "GET a")
	r.Kill()
	_, err = do("GET a")
	require.Error(t, err)
	r.Pause() // of a server that is down, is nothing
	require.NoError(t, r.Start())
	answer("$-1", "GET a")
	answer("*2", "CONFIG GET maxmemory")
	r.Stop()
	_, err = do("GET a")
	require.Error(t, err)
}
