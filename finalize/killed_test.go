package finalize_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
)

// killStep is a moment of a call at which its process is killed.
type killStep struct {
	name string
	call string
	// at tells the statement at which the call is caught; nil: in its callback.
	at func(sql string) bool
	do pgfault.Action
	// arrives tells what becomes of the statement when it was held: it is on its way and reaches the server after the
	// process's death, or it never does.
	arrives bool
	// working has the server wait within COMMIT while the process dies.
	working bool
	// holds tells that a rival has to wait by then.
	holds bool
	// commits tells what becomes of the transaction.
	commits bool
	// where tells on which worlds the step exists.
	where func(w *world) bool
}

func beginsWith(prefix string) func(string) bool {
	return func(sql string) bool { return strings.HasPrefix(strings.ToLower(sql), strings.ToLower(prefix)) }
}

func claims(sql string) bool {
	return strings.Contains(sql, "FOR NO KEY UPDATE") || strings.Contains(sql, "pg_advisory_xact_lock")
}

func insertsEvents(sql string) bool {
	return strings.HasPrefix(sql, "INSERT INTO") && strings.Contains(sql, "endstate_outbox")
}

func killSteps() []killStep {
	everywhere := func(*world) bool { return true }
	joined := func(w *world) bool { return w.database == "pgx" && w.guard != "own" }
	apart := func(w *world) bool { return !joined(w) } // settle and events are statements of their own
	begin, commit, settle := beginsWith("begin"), beginsWith("commit"), beginsWith("WITH endstate_settle0")
	return []killStep{
		{name: "before the claim", call: "do", at: begin, do: pgfault.Hold, arrives: true, where: everywhere},
		{name: "after the claim", call: "do", at: claims, do: pgfault.HoldReply, holds: true, where: everywhere},
		{name: "in the callback", call: "do", holds: true, where: everywhere},
		{name: "after the settle", call: "do", at: insertsEvents, do: pgfault.Hold, holds: true, where: apart},
		{name: "after the outbox insert", call: "do", at: commit, do: pgfault.Hold, holds: true, where: everywhere},
		{name: "COMMIT is on its way", call: "do", at: commit, do: pgfault.Hold, arrives: true, holds: true, commits: true, where: everywhere},
		{name: "the server works on the COMMIT", call: "do", at: commit, do: pgfault.HoldReply, working: true, holds: true, commits: true, where: everywhere},
		{name: "COMMIT took effect", call: "do", at: commit, do: pgfault.HoldReply, commits: true, where: everywhere},
		{name: "before the one statement of a Settle", call: "settle", at: settle, do: pgfault.Hold, where: joined},
		{name: "a Settle is on its way", call: "settle", at: settle, do: pgfault.Hold, arrives: true, commits: true, where: joined},
		{name: "a Settle took effect", call: "settle", at: settle, do: pgfault.HoldReply, commits: true, where: joined},
	}
}

// F1: kill -9 of the process. Where its COMMIT took effect the next trigger reads its receipt, else the next trigger wins,
// and PostgreSQL lets go of everything when it notices.
func TestProcessKilledAtEachStep(t *testing.T) {
	t.Parallel()
	for _, step := range killSteps() {
		t.Run(step.name, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			var victims []*victim
			var callers []caller
			for _, database := range []string{"pgx", "sql"} {
				for _, g := range guards {
					w := newWorld(t, database, g, url)
					if step.where(w) {
						v := step.aim(t, w)
						victims, callers = append(victims, v), append(callers, v.caller)
					}
				}
			}
			process := startProcess(t, callers...)
			if step.at == nil {
				process.await(len(victims), "holding")
			}
			for _, v := range victims {
				v.catch()
			}
			require.NotContains(t, strings.Join(process.kill(), "\n"), "returned", "too late to kill the process")
			for _, v := range victims {
				v.bury()
			}
		})
	}
}

// victim is one call of a process that is killed.
type victim struct {
	*world
	caller caller
	step   killStep
	proxy  *pgfault.Proxy
	fault  *pgfault.Fault
	rival  chan called
	unlock func()
}

const victimID = "batch-1"

// aim prepares a world for the step.
func (step killStep) aim(t *testing.T, w *world) *victim {
	w.open(victimID)
	v := &victim{world: w, step: step, proxy: pgfault.New(t, w.dsn), rival: make(chan called, 1), unlock: func() {}}
	if step.at != nil {
		v.fault = v.proxy.Arm(&pgfault.Fault{Match: step.at, Do: step.do})
	}
	if step.working {
		w.exec("CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock(7, hashtext(TG_TABLE_SCHEMA)); RETURN NULL; END $$")
		w.exec("CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON endstate_outbox DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()")
		lock, err := w.db.Conn(t.Context())
		require.NoError(t, err)
		_, err = lock.ExecContext(t.Context(), "SELECT pg_advisory_lock(7, hashtext($1))", w.schema)
		require.NoError(t, err)
		v.unlock = func() { require.NoError(t, lock.Close()) } // see below
		w.db.SetMaxIdleConns(0)                                // so that closing ends the session, and with it the lock
	}
	v.caller = caller{Database: w.database, Guard: w.guard, DSN: v.proxy.URL(), Schema: w.schema, App: w.app + "victim", ID: victimID, Call: step.call}
	if step.at == nil {
		v.caller.Hold = inCallback
	}
	return v
}

// catch waits until the call has come as far as the step, and lets a rival wait for it where it holds the aggregate.
func (v *victim) catch() {
	v.t.Helper()
	if v.fault != nil {
		v.fault.RequireFired(v.t)
		switch {
		case v.step.working:
			v.eventually("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'advisory'", v.caller.App)
		case v.step.do == pgfault.HoldReply:
			v.fault.RequireAnswered(v.t)
		case v.step.holds:
			// The server has done all that came before, and waits for more.
			v.eventually("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = $1 AND backend_xid IS NOT NULL AND wait_event = 'ClientRead'", v.caller.App)
		}
	}
	if v.step.holds {
		go func() { v.rival <- compete(v.world) }()
		v.waiting(1)
	}
}

// compete is another trigger, of another process, that wants another state.
func compete(w *world) called {
	c := called{Key: victimID}
	var err error
	if c.Receipt, err = w.settle(w.t.Context(), guard.Text(victimID), "rival", rivals()); err != nil {
		c.Err = err.Error()
	}
	return c
}

func rivals() finalize.Outcome {
	out := completed()
	out.State = "ERROR_PROCESSING"
	return out
}

// bury looks at what is left once the process is dead.
func (v *victim) bury() {
	t := v.t
	t.Helper()
	if v.fault != nil {
		if !v.step.arrives && v.step.do == pgfault.Hold {
			v.proxy.CutAll()
		}
		v.fault.Release()
	}
	v.unlock()
	v.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1", v.caller.App)
	if !v.step.holds {
		v.rival <- compete(v.world)
	}
	requireBuried(t, v.world, <-v.rival, v.step.commits)
	if v.step.commits && v.step.call == "do" {
		require.Equal(t, 1, v.writes(victimID), "the callback's own write came with its transaction")
	}
}

// requireBuried checks what a rival was told and what there is after the process's death. Whether it committed decides.
func requireBuried(t *testing.T, w *world, rival called, committed bool) {
	t.Helper()
	require.Empty(t, rival.Err)
	r := rival.Receipt
	require.Equal(t, !committed, r.Won)
	state, trigger := "ERROR_PROCESSING", finalize.Trigger("rival")
	if committed {
		state, trigger = "COMPLETE_STABLE", callersTrigger
	}
	require.Equal(t, state, r.State)
	require.Equal(t, w.hasLedger(), r.Provenance)
	if r.Provenance {
		require.Equal(t, trigger, r.Trigger)
	}
	w.requireFinal(victimID, state, "batch.completed")
	if !committed {
		require.Zero(t, w.writes(victimID), "the callback's own write went with its transaction")
	}
	later, err := w.another().do(t.Context(), guard.Text(victimID), "sweep", never(t))
	require.NoError(t, err)
	r.Won, r.Differs = false, false
	require.Equal(t, r, later, "I4")
}

// F31: the winner's process is stopped inside its transaction for longer than idle_in_transaction_session_timeout. Another
// trigger wins meanwhile, and the process is told when it wakes up.
func TestProcessStoppedInItsTransaction(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"do", "doTx"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			var worlds []*world
			var callers []caller
			for _, database := range []string{"pgx", "sql"} {
				for _, g := range guards {
					w := newWorld(t, database, g, url)
					id := database + "-" + g
					w.open(id, id+"-before")
					worlds = append(worlds, w)
					callers = append(callers, caller{Database: database, Guard: g, DSN: url, Schema: w.schema, App: w.app + "sleeper",
						ID: id, Call: call, Warm: true, Hold: inCallback, Params: map[string]string{"idle_in_transaction_session_timeout": "5000"}})
				}
			}
			process := startProcess(t, callers...)
			process.await(len(callers), "holding")
			process.stop()
			receipts := map[string]finalize.Receipt{} // of the rivals
			for i, w := range worlds {
				// It waits, until PostgreSQL ends the sleeper's session.
				r, err := w.settle(t.Context(), guard.Text(callers[i].ID), "rival", rivals())
				require.NoError(t, err)
				require.True(t, r.Won)
				w.eventually("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = $1", callers[i].App)
				r.Won, r.At = false, r.At.UTC()
				receipts[callers[i].ID] = r
			}
			process.cont()
			process.release()
			receiptsTold := 0
			for id, woken := range process.returned(len(callers)) {
				if woken.Err != "" {
					if dbtest.SaysWhyItEnded() || strings.HasPrefix(id, "pgx") {
						require.Equal(t, "25P03", woken.State, "%s: %s", id, woken.Err)
					}
					require.NotContains(t, woken.Err, finalize.ErrOutcomeUnknown.Error(), id)
					continue
				}
				receiptsTold++
				require.Equal(t, "do", call, "%s: the caller's transaction is gone, and its COMMIT has to say so", id)
				require.Equal(t, receipts[id], woken.Receipt, "%s: I4", id)
			}
			if call == "do" {
				require.NotZero(t, receiptsTold, "with COMMIT in one trip with the rest, it has to be asked what became of it")
			}
			for i, w := range worlds {
				w.requireFinal(callers[i].ID, "ERROR_PROCESSING", "batch.completed")
				require.Zero(t, w.writes(callers[i].ID))
			}
		})
	}
}
