package finalizetest_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/finalize/finalizetest"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failing is a test that fails.
type failing struct {
	testing.TB
	t        *testing.T
	message  string
	cleanups []func()
}

func (f *failing) Helper()                  {}
func (f *failing) Cleanup(fn func())        { f.cleanups = append(f.cleanups, fn) }
func (f *failing) Context() context.Context { return f.t.Context() }
func (f *failing) Errorf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
}
func (f *failing) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	runtime.Goexit()
}

// message is what a test fails with.
func message(t *testing.T, test func(tb testing.TB)) string {
	t.Helper()
	f := &failing{t: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		test(f)
	}()
	<-done
	for _, fn := range f.cleanups {
		fn()
	}
	return f.message
}

func config() *finalize.Config {
	return &finalize.Config{Aggregate: "batch", Guard: guard.Ledger{}}
}

func memory(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", ":memory:")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

var key = guard.Text("b1")

func completed() finalize.Outcome {
	return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{"n":1}`)}}}
}

func TestARealDoorInMemory(t *testing.T) {
	t.Parallel()
	db := memory(t)
	fin := finalizetest.New(t, db, config())
	errs := make(chan error)
	for range 20 { // each connection of its own would find no table
		go func() {
			_, err := fin.Settle(t.Context(), key, "sweep", completed())
			errs <- err
		}()
	}
	for range 20 {
		require.NoError(t, <-errs)
	}
	finalizetest.RequireEvents(t, db, "batch", key, "batch.completed")
	require.Len(t, finalizetest.Subscribe(t, db, nil).Wait(t, 1), 1)
}

func TestASchemaOfItsOwn(t *testing.T) {
	t.Parallel()
	server := dbtest.Postgres(t)
	var name string
	t.Run("inner", func(t *testing.T) {
		a, b := dbtest.SQLOn(t, finalizetest.Schema(t, server)), dbtest.SQLOn(t, finalizetest.Schema(t, server))
		for _, db := range []*sql.DB{a, b} {
			r, err := finalizetest.New(t, db, config()).Settle(t.Context(), key, "sweep", completed())
			require.NoError(t, err)
			require.True(t, r.Won, "the same key in each")
			finalizetest.RequireEvents(t, db, "batch", key, "batch.completed")
		}
		require.NoError(t, a.QueryRowContext(t.Context(), "SELECT current_schema()").Scan(&name))
	})
	var left int
	require.NoError(t, dbtest.SQLOn(t, server).QueryRowContext(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname = $1", name).Scan(&left))
	require.Zero(t, left)
}

func TestWhatAScriptAnswers(t *testing.T) {
	t.Parallel()
	db := memory(t)
	fin := finalizetest.New(t, db, config())
	own := errors.New("own")
	ran := 0
	work := func(context.Context, *sql.Tx) (finalize.Outcome, error) { ran++; return completed(), nil }
	s := finalizetest.NewScript(t, fin).Then(finalizetest.Lose("ERROR", "monitor"), finalizetest.Busy(), finalizetest.Unknown(),
		finalizetest.Fail(own), finalizetest.Win("COMPLETE"), finalizetest.Conflict("batch.completed"))
	r, err := s.Do(t.Context(), key, "sweep", work)
	require.NoError(t, err)
	require.False(t, r.Won)
	require.Equal(t, "ERROR", r.State)
	require.Equal(t, finalize.Trigger("monitor"), r.Trigger)
	for _, want := range []error{finalize.ErrBusy, finalize.ErrOutcomeUnknown, own} {
		_, err = s.Do(t.Context(), key, "sweep", work)
		require.ErrorIs(t, err, want)
	}
	r, err = s.Settle(t.Context(), key, "sweep", completed())
	require.NoError(t, err)
	require.True(t, r.Won)
	require.Zero(t, ran)
	finalizetest.RequireEvents(t, db, "batch", key)

	_, err = s.Do(t.Context(), key, "sweep", work)
	var conflict *finalize.EventConflictError
	require.ErrorAs(t, err, &conflict)
	require.Equal(t, "batch.completed", conflict.Type)
	require.Equal(t, 1, ran)
	finalizetest.RequireEvents(t, db, "batch", key)

	s.Then(finalizetest.UnknownAfter())
	_, err = s.Do(t.Context(), key, "sweep", work)
	require.ErrorIs(t, err, finalize.ErrOutcomeUnknown)
	finalizetest.RequireEvents(t, db, "batch", key, "batch.completed")
	r, err = s.Do(t.Context(), key, "sweep", work)
	require.NoError(t, err)
	require.False(t, r.Won, "the real door")
	require.Len(t, s.Calls(), 8)
}

func TestAScriptWithoutADoor(t *testing.T) {
	t.Parallel()
	require.Equal(t, `finalizetest: Settle of b1 by "sweep": the script has no answer left, and no real door`, message(t, func(tb testing.TB) {
		s := finalizetest.NewScript[*sql.Tx](tb, nil).Then(finalizetest.Win("COMPLETE"))
		_, _ = s.Settle(t.Context(), key, "sweep", completed())
		_, _ = s.Settle(t.Context(), key, "sweep", completed())
	}))
	require.Equal(t, `finalizetest: 1 answers were not asked for; the calls were ["Settle of b1 by \"sweep\""]`, message(t, func(tb testing.TB) {
		s := finalizetest.NewScript[*sql.Tx](tb, nil).Then(finalizetest.Win("COMPLETE"), finalizetest.Busy())
		_, _ = s.Settle(t.Context(), key, "sweep", completed())
	}))
}

func TestWhatRequireEventsSays(t *testing.T) {
	t.Parallel()
	db := memory(t)
	fin := finalizetest.New(t, db, config())
	require.Equal(t, `outboxtest: want the events ["batch.completed"] with aggregate type "batch", aggregate id "b1", and endstate_outbox is empty`,
		message(t, func(tb testing.TB) { finalizetest.RequireEvents(tb, db, "batch", key, "batch.completed") }))
	_, err := fin.Settle(t.Context(), key, "sweep", completed())
	require.NoError(t, err)
	require.Equal(t, `outboxtest: want the events ["batch.failed"] with aggregate type "batch", aggregate id "b1", not ["batch.completed"]; endstate_outbox holds:
  batch.completed  batch b1  {"n":1}  `,
		message(t, func(tb testing.TB) { finalizetest.RequireEvents(tb, db, "batch", key, "batch.failed") }))
}

func ExampleScript() {
	// A trigger of a service, of which a test wants to know what it does when it is too late.
	answer := func(door finalizetest.Door[*sql.Tx]) string {
		r, err := door.Settle(context.Background(), key, "webhook", completed())
		if err != nil || r.Won {
			return fmt.Sprint(r.Won, err)
		}
		return fmt.Sprintf("%s by %s already", r.State, r.Trigger)
	}
	t := &failing{} // in a test, its *testing.T
	fmt.Fprintln(os.Stdout, answer(finalizetest.NewScript[*sql.Tx](t, nil).Then(finalizetest.Lose("CANCELED", "operator"))))
	// Output: CANCELED by operator already
}
