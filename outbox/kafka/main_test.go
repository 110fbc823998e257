package kafka

import (
	"net"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if arguments := os.Getenv(memberEnv); arguments != "" {
		runMember(arguments)
		return
	}
	goleak.VerifyTestMain(m)
}

func portsOf(t *testing.T, addrs []string) (ports []int) {
	t.Helper()
	for _, addr := range addrs {
		_, text, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		port, err := strconv.Atoi(text)
		require.NoError(t, err)
		ports = append(ports, port)
	}
	return ports
}
