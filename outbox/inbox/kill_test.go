package inbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// The steps at which a consumer's process is killed.
const (
	beforeClaim = "before claim" // the event has arrived
	afterClaim  = "after claim"  // in the function, before its effect
	afterEffect = "after effect" // in the function, after its effect
	afterDone   = "after done"   // handled, but not acknowledged to what delivered it
)

// killSpec is what a consumer's process is told to do.
type killSpec struct {
	Way, Database, DSN, Redis string
	Step                      string
	Event                     outbox.Event
}

const killEnv = "ENDSTATE_INBOX_KILL"

// shortLease lets a test wait for the end of a dead process's claim, and yet see it before.
func shortLease(wait time.Duration) option {
	return claimsConfig(func(cfg *inbox.ClaimsConfig) { cfg.Lease, cfg.Wait = 15*time.Second, wait })
}

// TestKillChild is the process that is killed: it stops at its step and says so.
func TestKillChild(t *testing.T) {
	text := os.Getenv(killEnv)
	if text == "" {
		return
	}
	var spec killSpec
	require.NoError(t, json.Unmarshal([]byte(text), &spec))
	at := func(step string) {
		if step == spec.Step {
			fmt.Println("at " + step)
			select {} // until we are killed
		}
	}
	c := connect(t, spec.Way, spec.Database, spec.DSN, spec.Redis, shortLease(time.Minute))
	at(beforeClaim)
	_, err := c.way(func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
		at(afterClaim)
		err := errors.Join(charge(ctx, tx, event), chargeByKey(ctx, tx, event))
		at(afterEffect)
		return err
	})(context.Background(), spec.Event)
	require.NoError(t, err)
	at(afterDone)
}

// chargeByKey is an effect that is keyed by what it is for: the remedy where a way repeats.
func chargeByKey(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
	_, err := tx.Exec(ctx, `INSERT INTO keyed_credits (batch) VALUES ($1) ON CONFLICT DO NOTHING`, event.AggregateID)
	return err
}

// F24: a consumer is killed at each step, and its event is delivered again.
func TestKilledAtEachStep(t *testing.T) {
	for _, tt := range []struct {
		way, step  string
		then       int           // effects when the process has died
		again      inbox.Outcome // of the next delivery
		inProgress bool          // a dead process's claim is still there
		finally    int           // effects
	}{
		{"table", beforeClaim, 0, inbox.Applied, false, 1},
		{"table", afterClaim, 0, inbox.Applied, false, 1},
		{"table", afterEffect, 0, inbox.Applied, false, 1},
		{"table", afterDone, 1, inbox.Repeated, false, 1},
		{"status", beforeClaim, 0, inbox.Applied, false, 1},
		{"status", afterClaim, 0, inbox.Applied, false, 1},
		{"status", afterEffect, 0, inbox.Applied, false, 1},
		{"status", afterDone, 1, inbox.Repeated, false, 1},
		{"redis", beforeClaim, 0, inbox.Applied, false, 1},
		{"redis", afterClaim, 0, inbox.Applied, true, 1},
		{"redis", afterEffect, 1, inbox.Applied, true, 2}, // the documented exception
		{"redis", afterDone, 1, inbox.Repeated, false, 1},
	} {
		for _, database := range []string{"pgx", "sqlite"} {
			t.Run(tt.way+"/"+database+"/"+tt.step, func(t *testing.T) {
				t.Parallel()
				c := newConsumer(t, tt.way, database, shortLease(time.Minute))
				c.exec(`CREATE TABLE keyed_credits (batch text PRIMARY KEY)`)
				e := event()
				killed(t, killSpec{Way: tt.way, Database: database, DSN: c.dsn, Redis: c.redisURL, Step: tt.step, Event: e})
				require.Equal(t, tt.then, c.credits())
				work := func(ctx context.Context, tx endstate.Querier, event outbox.Event) error {
					return errors.Join(charge(ctx, tx, event), chargeByKey(ctx, tx, event))
				}
				if tt.inProgress {
					hasty := connect(t, tt.way, database, c.dsn, c.redisURL, shortLease(-1))
					_, err := hasty.way(work)(t.Context(), e)
					require.ErrorIs(t, err, inbox.ErrInProgress)
				}
				r, err := c.way(work)(t.Context(), e)
				require.NoError(t, err)
				require.Equal(t, tt.again, r.Outcome)
				r, err = c.way(work)(t.Context(), e)
				require.NoError(t, err)
				require.Equal(t, inbox.Repeated, r.Outcome)
				require.Equal(t, tt.finally, c.credits())
				require.Equal(t, 1, c.count(`SELECT count(*) FROM keyed_credits`))
				if tt.way == "table" {
					require.Equal(t, 1, c.count(`SELECT count(*) FROM endstate_inbox WHERE state = 'handled'`))
				}
				if database == "pgx" {
					require.Zero(t, c.count(`SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE locktype = 'advisory' AND datname = current_database()`))
				}
			})
		}
	}
}

// killed runs a consumer's process until it has reached its step, and kills it.
func killed(t *testing.T, spec killSpec) {
	t.Helper()
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKillChild$", "-test.count", "1")
	cmd.Env = append(os.Environ(), killEnv+"="+string(text))
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = cmd.Stdout
	require.NoError(t, cmd.Start())
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() }) // a child that hangs elsewhere
	defer kill.Stop()
	reached := false
	var log strings.Builder
	for lines := bufio.NewScanner(out); !reached && lines.Scan(); {
		fmt.Fprintln(&log, lines.Text())
		reached = lines.Text() == "at "+spec.Step
	}
	require.NoError(t, cmd.Process.Kill())
	err = cmd.Wait()
	require.True(t, reached, log.String())
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.False(t, exit.Exited(), "it died by the signal")
}
