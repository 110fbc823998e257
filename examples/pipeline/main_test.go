package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Fourteen calls a batch, each event published three times and consumers that fail leave each batch finalized, closed and charged
// once, and one trace from the trigger to both effects.
func TestPipeline(t *testing.T) {
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), []string{"-batches", "8", "-duplicates", "3"}, &stdout, &stderr)
	require.Zero(t, status, stderr.String())
	out := stdout.String()
	require.Contains(t, out, "112 calls of 4 triggers completed 8 batches, whose 16 events closed 8 batches and charged 8 credits.")
	require.Regexp(t, `(?m)^  (periodic|threshold|monitor|recovery) trigger `, out)
	require.Regexp(t, `(?m)^    finalize batch .*won, COMPLETE_STABLE`, out)
	require.Regexp(t, `(?m)^      work batch `, out)
	require.Regexp(t, `(?m)^      publish assessment.completed .*nats`, out)
	require.Regexp(t, `(?m)^      publish assessment.consumed .*kafka`, out)
	require.Regexp(t, `(?m)^      process assessment.completed .*applied, nats, lifecycle`, out)
	require.Regexp(t, `(?m)^      process assessment.consumed .*applied, kafka, entitlements`, out)
}

func TestCommandLine(t *testing.T) {
	var stdout, stderr bytes.Buffer
	require.Equal(t, 2, run(t.Context(), []string{"-batches", "0"}, &stdout, &stderr))
	require.Contains(t, stderr.String(), "at least 1")
	require.Zero(t, run(t.Context(), []string{"-h"}, &stdout, &stderr))
}
