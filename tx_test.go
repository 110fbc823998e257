package endstate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is put through a pool would commit at once, and what is claimed through one would be held by nobody. So a pool, or a
// connection, where a transaction is wanted doesn't compile.
func TestAPoolIsNoTransaction(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile(filepath.Join("testdata", "pool", "main.go"))
	require.NoError(t, err)
	out, err := exec.CommandContext(t.Context(), "go", "build", "-gcflags=-e", "-o", os.DevNull, "./testdata/pool").CombinedOutput()
	require.Error(t, err, "it compiles")

	refused := map[int]string{}
	for line := range strings.Lines(string(out)) {
		if _, at, found := strings.Cut(line, "main.go:"); found {
			number, message, _ := strings.Cut(at, ":")
			n, err := strconv.Atoi(number)
			require.NoError(t, err, line)
			refused[n] = message
		}
	}
	wrong := 0
	for i, line := range strings.Split(string(source), "\n") {
		message, isRefused := refused[i+1]
		switch {
		case strings.HasSuffix(line, "// wrong"):
			wrong++
			require.True(t, isRefused, "line %d compiles: %s\n%s", i+1, line, out)
			require.True(t, strings.Contains(message, "cannot use"), "line %d is refused for another reason: %s", i+1, message)
		default:
			require.False(t, isRefused, "line %d does not compile: %s: %s", i+1, line, message)
		}
	}
	require.Greater(t, wrong, 20)
}
