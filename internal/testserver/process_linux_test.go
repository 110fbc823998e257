package testserver

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestServersDieWithTheirStarter kills a process that has started servers.
func TestServersDieWithTheirStarter(t *testing.T) {
	const env = "ENDSTATE_TEST_STARTER"
	if os.Getenv(env) == "1" {
		p, err := StartPostgres()
		require.NoError(t, err)
		r, err := StartRedis()
		require.NoError(t, err)
		fmt.Println(p.place.address(), p.place.dir, p.process.cmd.Process.Pid)
		fmt.Println(r.place.address(), r.place.dir, r.process.cmd.Process.Pid)
		select {} // until it is killed
	}
	_, err := PostgresBin()
	installed(t, err)
	_, err = RedisBin()
	installed(t, err)

	cmd := exec.Command(os.Args[0], "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), env+"=1")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewReader(out)
	addresses := make([]string, 2)
	for i := range addresses {
		var dir string
		var pid int
		_, err := fmt.Fscanln(lines, &addresses[i], &dir, &pid)
		require.NoError(t, err)
		t.Cleanup(func() {
			if t.Failed() {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			require.NoError(t, os.RemoveAll(dir)) // which its owner, having been killed, couldn't
		})
	}
	for _, address := range addresses {
		conn, err := net.Dial("tcp", address)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	for _, address := range addresses {
		require.Eventually(t, func() bool {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		}, time.Minute, 5*time.Millisecond, "%s still answers", address)
	}
}
