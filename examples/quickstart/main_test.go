package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOneTriggerWins(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "run", ".")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), stderr.String())
	require.Equal(t, 1, strings.Count(stdout.String(), "won: true"), stdout.String())
	require.Equal(t, 1, strings.Count(stdout.String(), "won: false"), stdout.String())
	require.Contains(t, stdout.String(), "events in the outbox: 1\n")
}

func TestItIsShort(t *testing.T) {
	source, err := os.ReadFile("main.go")
	require.NoError(t, err)
	require.LessOrEqual(t, bytes.Count(source, []byte("\n")), 60)
}
