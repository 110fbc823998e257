package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestMain(m *testing.M) {
	if os.Getenv(consumerEnv) != "" { // a consumer's process
		os.Exit(run(context.Background(), nil, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}

// command runs the program and returns its exit status and output.
func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestEveryCreditIsChargedOnce(t *testing.T) {
	for name, server := range map[string]func(t *testing.T) []string{
		"embedded": func(t *testing.T) []string { return nil },
		"servers": func(t *testing.T) []string {
			url := dbtest.Postgres(t)
			t.Cleanup(func() {
				var left int
				require.NoError(t, dbtest.SQLOn(t, url).QueryRow(`SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'consumers%'`).Scan(&left))
				require.Zero(t, left, "the schema goes afterwards")
			})
			return []string{"-db", url, "-redis", dbtest.RedisURL(t)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, stdout, stderr := command(t, append(server(t), "-json")...)
			require.Zero(t, status, stderr)
			require.Empty(t, stderr)
			var got map[string]any
			require.NoError(t, json.Unmarshal([]byte(stdout), &got))
			figures := func(name string, dropped, credits float64) map[string]any {
				return map[string]any{"name": name, "applied": 12.0, "dropped": dropped, "credits": credits}
			}
			// Results gets each of its 16 events once: what it drops are the second ones for a batch.
			require.Equal(t, map[string]any{"delivered": 176.0, "consumers": []any{
				figures("lifecycle", 68, 0), figures("results", 4, 0), figures("entitlements", 68, 12),
			}}, got)
		})
	}
}

func TestWithoutDuplicatesThereAreStillTwoAnnouncements(t *testing.T) {
	status, stdout, stderr := command(t, "-duplicates", "0")
	require.Zero(t, status, stderr)
	require.Regexp(t, `lifecycle +inbox.Status +16 +16 +[1-9]`, stdout, "processes were killed")
	require.Regexp(t, `results +NewConsumerSQL +16 +16 +2 +4 +12`, stdout, "each event once, though processes were killed")
	require.Contains(t, stdout, "by ids alone 16 credits would have been charged, by the\nbatch it was 12.")
}

// The exit status isn't 0 by itself: what is wrong is found in the figures.
func TestWhatIsWrongIsSaid(t *testing.T) {
	right := consumerFigures{Name: "entitlements", Applied: batches, affected: batches, Credits: batches}
	require.Empty(t, report{Consumers: []consumerFigures{right}}.wrong())
	for want, change := range map[string]func(*consumerFigures){
		"13 credits were charged for 12 batches": func(f *consumerFigures) { f.Credits++ },
		"11 credits were charged for 12 batches": func(f *consumerFigures) { f.Credits-- },
		"results handled 1 events twice":         func(f *consumerFigures) { f.Name, f.delivered, f.ids = results, 17, 16 },
		"applied 1 effects twice":                func(f *consumerFigures) { f.Applied++ },
		"missed 1 batches":                       func(f *consumerFigures) { f.affected--; f.Applied-- },
	} {
		f := right
		change(&f)
		require.Contains(t, strings.Join(report{Consumers: []consumerFigures{f}}.wrong(), "; "), want)
	}
}

func TestBadCommandLines(t *testing.T) {
	for want, args := range map[string][]string{
		"-duplicates is -1":                       {"-duplicates", "-1"},
		"-db is not a postgres:// URL":            {"-db", "mysql://secret@host"},
		"-redis is not a redis:// URL":            {"-redis", "secret"},
		"an argument that belongs to no flag":     {"postgres://secret@host"},
		"flag provided but not defined: -unknown": {"-unknown"},
	} {
		status, stdout, stderr := command(t, args...)
		require.Equal(t, 2, status)
		require.Empty(t, stdout)
		require.Contains(t, stderr, want)
		require.NotContains(t, stderr, "secret")
	}
	status, _, stderr := command(t, "-help")
	require.Zero(t, status)
	require.Contains(t, stderr, "usage: consumers [-db URL] [-redis URL] [-duplicates 4] [-json]")
}

// A server that can't be reached ends the program with 2, and leaves nothing behind.
func TestServersThatAreAway(t *testing.T) {
	status, _, stderr := command(t, "-db", "postgres://u:secret@127.0.0.1:1/db")
	require.Equal(t, 2, status)
	require.NotContains(t, stderr, "secret")
	status, _, stderr = command(t, "-redis", "redis://:secret@127.0.0.1:1")
	require.Equal(t, 2, status)
	require.Contains(t, stderr, "deliver to entitlements")
	require.NotContains(t, stderr, "secret")
}
