package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"

	_ "embed"
)

// What a run is told by its environment. Without stateEnv it is one short round, and nothing is kept of it.
const (
	stateEnv         = "ENDSTATE_TEST_SOAK_STATE"         // the file that says how far a run is, with which it goes on after an interruption
	finalizationsEnv = "ENDSTATE_TEST_SOAK_FINALIZATIONS" // how many there are to be in the end
	durationEnv      = "ENDSTATE_TEST_SOAK_DURATION"      // how long this piece of the run may take
	pageEnv          = "ENDSTATE_TEST_SOAK_PAGE"          // the file for the summary
	seedEnv          = "ENDSTATE_TEST_SOAK_SEED"          // of a run that begins
)

// run is a run of many rounds, in pieces. A round that is broken off, or fails, doesn't count: it is done again.
type run struct {
	Seed     uint64
	Versions map[string]string
	Rounds   []result

	state, page       string
	finalizations     int
	duration          time.Duration
	keys, callsPerKey int           // of a round
	pace              time.Duration // how many times rarer faults are than in one short round
}

// result is what came of a round.
type result struct {
	Finalized, Operations, Events  int
	Results, Faults, Causes, Codes map[string]int
	Seconds                        float64
	Ended                          time.Time
}

func newRun(t *testing.T) *run {
	t.Helper()
	r := &run{Seed: 1, keys: 3000, callsPerKey: callsPerKey, pace: 1, finalizations: 1, state: os.Getenv(stateEnv), page: os.Getenv(pageEnv)}
	var err error
	if text := os.Getenv(seedEnv); text != "" {
		r.Seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, seedEnv)
	}
	if r.state == "" {
		return r
	}
	r.keys, r.callsPerKey, r.pace = 30_000, 2, 6 // an interruption loses a round
	r.finalizations, err = strconv.Atoi(os.Getenv(finalizationsEnv))
	require.NoError(t, err, finalizationsEnv)
	r.duration, err = time.ParseDuration(os.Getenv(durationEnv))
	require.NoError(t, err, durationEnv)
	text, err := os.ReadFile(r.state)
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, r), r.state)
		t.Logf("going on after %d rounds", len(r.Rounds))
	}
	return r
}

// done reports whether the run, or this piece of it, is at its end. In a whole one each kind of fault has struck.
func (r *run) done(t *testing.T, after time.Duration) bool {
	if total := r.Total(); r.state != "" && total.Finalized >= r.finalizations {
		for name, n := range total.Faults {
			require.NotZero(t, n, "%s did not strike", name)
		}
	}
	return r.Total().Finalized >= r.finalizations || r.state != "" && after >= r.duration
}

// add keeps what came of a round, and writes the summary.
func (r *run) add(of *round, h *history, faults []*fault, finalized, events int, took time.Duration) {
	t := of.t
	t.Helper()
	one := result{Finalized: finalized, Events: events, Results: h.results, Faults: map[string]int{}, Causes: h.causes, Codes: h.codes,
		Seconds: took.Seconds(), Ended: time.Now().UTC().Truncate(time.Second)}
	for _, n := range h.results {
		one.Operations += n
	}
	for _, f := range faults {
		one.Faults[f.name] += int(f.struck.Load())
	}
	r.Rounds = append(r.Rounds, one)
	for _, name := range slices.Sorted(maps.Keys(one.Faults)) {
		t.Logf("%6d × %s", one.Faults[name], name)
	}
	t.Logf("%d keys finalized, %d events, errors by SQLSTATE %v: lost 0, doubled 0, order kept, nothing held", finalized, events, one.Codes)
	if r.state == "" {
		return
	}
	r.Versions = of.versions()
	text, err := json.MarshalIndent(r, "", "\t")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(r.state+".new", text, 0o644))
	require.NoError(t, os.Rename(r.state+".new", r.state))
	if r.page != "" {
		var page strings.Builder
		require.NoError(t, template.Must(template.New("").Parse(summary)).Execute(&page, r))
		require.NoError(t, os.WriteFile(r.page, []byte(page.String()), 0o644))
	}
}

// Total adds the rounds up.
func (r *run) Total() (sum result) {
	sum.Results, sum.Faults, sum.Causes, sum.Codes = map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	for _, one := range r.Rounds {
		sum.Finalized, sum.Operations, sum.Events, sum.Seconds, sum.Ended = sum.Finalized+one.Finalized, sum.Operations+one.Operations, sum.Events+one.Events, sum.Seconds+one.Seconds, one.Ended
		for _, m := range []struct{ into, from map[string]int }{{sum.Results, one.Results}, {sum.Faults, one.Faults}, {sum.Causes, one.Causes}, {sum.Codes, one.Codes}} {
			for name, n := range m.from {
				m.into[name] += n
			}
		}
	}
	return sum
}

// Took is how long the rounds took together.
func (r result) Took() time.Duration {
	return time.Duration(r.Seconds * float64(time.Second)).Round(time.Second)
}

// AllFaults is how many faults struck.
func (r result) AllFaults() (n int) {
	for _, m := range r.Faults {
		n += m
	}
	return n
}

//go:embed summary.md.tpl
var summary string

// versions are those of what a run runs on.
func (r *round) versions() map[string]string {
	r.t.Helper()
	all := map[string]string{"Go": strings.TrimPrefix(runtime.Version(), "go"), "CPUs": fmt.Sprint(runtime.NumCPU())}
	required, err := os.ReadFile("go.mod") // a test's build info doesn't say
	require.NoError(r.t, err)
	for _, module := range []string{"jackc/pgx/v5", "nats-io/nats-server/v2", "twmb/franz-go", "twmb/franz-go/pkg/kfake", "redis/go-redis/v9", "anishathalye/porcupine"} {
		_, version, found := strings.Cut(string(required), "\tgithub.com/"+module+" ")
		require.True(r.t, found, module)
		all[module] = strings.Fields(version)[0]
	}
	var postgres string
	require.NoError(r.t, r.servers.direct.QueryRow(r.t.Context(), "SHOW server_version").Scan(&postgres))
	all["PostgreSQL"] = postgres
	redis, err := r.brokers.redisClient(r.t).InfoMap(r.t.Context(), "server").Result()
	require.NoError(r.t, err)
	all["Redis"] = redis["Server"]["redis_version"]
	return all
}
