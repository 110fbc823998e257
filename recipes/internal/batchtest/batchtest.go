// Package batchtest is the service that the recipes' tests are about: batches with a status, in SQLite and in PostgreSQL.
package batchtest

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
)

// Status is the guard on the batches.
var Status = guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Names("COMPLETE", "ERROR")}

// DB is the service's database.
type DB struct {
	*sql.DB
	SQLite bool
	URL    string // of PostgreSQL
	t      *testing.T
}

// Each runs a test on SQLite and on PostgreSQL, with a database of its own, in which batch "b1" is open.
func Each(t *testing.T, run func(t *testing.T, db *DB)) {
	t.Helper()
	t.Run("SQLite", func(t *testing.T) {
		t.Parallel()
		run(t, prepared(t, &DB{DB: dbtest.SQLite(t), SQLite: true, t: t}))
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		t.Parallel()
		url := dbtest.Postgres(t)
		run(t, prepared(t, &DB{DB: dbtest.SQLOn(t, url), URL: url, t: t}))
	})
}

func prepared(t *testing.T, db *DB) *DB {
	t.Helper()
	db.Exec(`CREATE TABLE batches (
		id text PRIMARY KEY, status text NOT NULL, note text NOT NULL DEFAULT '', version integer NOT NULL DEFAULT 1, deleted_at timestamp)`)
	db.Exec(`INSERT INTO batches (id, status) VALUES ('b1', 'PENDING')`)
	fin, err := finalize.NewSQL(db.DB, Config())
	require.NoError(t, err)
	require.NoError(t, fin.Migrate(t.Context()))
	return db
}

// Config is the finalizer's.
func Config() *finalize.Config {
	return &finalize.Config{Aggregate: "batch", Guard: guard.All(Status, guard.Ledger{}), Logger: slog.New(slog.DiscardHandler)}
}

// B1 is the batch that is there.
var B1 = guard.Text("b1")

// Completed is an outcome with an event.
func Completed() finalize.Outcome {
	return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{}`)}}}
}

// ErrNo is an error of the service's.
var ErrNo = errors.New("the service says no")

// Exec runs a statement.
func (db *DB) Exec(query string) {
	db.t.Helper()
	_, err := db.DB.ExecContext(db.t.Context(), query)
	require.NoError(db.t, err)
}

// Protect has the database refuse what would leave a terminal state.
func (db *DB) Protect() {
	db.t.Helper()
	tx, err := db.BeginTx(db.t.Context(), nil)
	require.NoError(db.t, err)
	require.NoError(db.t, Status.Protect(db.t.Context(), db.Tx(tx)))
	require.NoError(db.t, tx.Commit())
}

// Tx makes endstate's transaction of one of database/sql's, or of an ORM's.
func (db *DB) Tx(tx endstate.SQLTx) endstate.Tx {
	if db.SQLite {
		return endstate.SQLiteTx(tx)
	}
	return endstate.PostgresTx(tx)
}

// RequireBatch checks b1's row.
func (db *DB) RequireBatch(status, note string) {
	db.t.Helper()
	var isStatus, isNote string
	require.NoError(db.t, db.QueryRowContext(db.t.Context(), `SELECT status, note FROM batches WHERE id = 'b1'`).Scan(&isStatus, &isNote))
	require.Equal(db.t, [2]string{status, note}, [2]string{isStatus, isNote})
}

// RequireEvents checks which types the events in the outbox have.
func (db *DB) RequireEvents(types ...string) {
	db.t.Helper()
	rows, err := db.QueryContext(db.t.Context(), `SELECT type FROM endstate_outbox ORDER BY seq`)
	require.NoError(db.t, err)
	defer rows.Close()
	var found []string
	for rows.Next() {
		var name string
		require.NoError(db.t, rows.Scan(&name))
		found = append(found, name)
	}
	require.NoError(db.t, rows.Err())
	require.Equal(db.t, types, found)
}

// RequireOpen checks that b1 is as it was, without events.
func (db *DB) RequireOpen() {
	db.t.Helper()
	db.RequireBatch("PENDING", "")
	db.RequireEvents()
}

// RequireComplete checks that b1 is complete, with its event.
func (db *DB) RequireComplete(note string) {
	db.t.Helper()
	db.RequireBatch("COMPLETE", note)
	db.RequireEvents("batch.completed")
}

// Event is an event of b1 that isn't of its completion.
func Event() outbox.Event {
	return outbox.Event{AggregateType: "batch", AggregateID: "b1", Type: "batch.noted", Payload: []byte(`{}`)}
}

// TryDo has Do undo what a callback wrote that isn't ready, and keep what it wrote when it wins. Note is a callback that sets b1's
// note to "done" by an ORM.
func TryDo[Tx any](db *DB, fin *finalize.Finalizer[Tx], note finalize.Func[Tx]) {
	db.t.Helper()
	_, err := fin.Do(db.t.Context(), B1, "sweep", func(ctx context.Context, tx Tx) (finalize.Outcome, error) {
		_, err := note(ctx, tx)
		require.NoError(db.t, err)
		return finalize.Outcome{}, finalize.ErrNotReady
	})
	require.ErrorIs(db.t, err, finalize.ErrNotReady)
	db.RequireOpen()
	r, err := fin.Do(db.t.Context(), B1, "threshold", note)
	require.NoError(db.t, err)
	require.True(db.t, r.Won)
	db.RequireComplete("done")
}

// TryTx has a transaction of an ORM's end with a rollback and then with a commit. Finish opens one, saves b1, puts Event, and has
// DoTx complete b1 with the note "done"; then it returns answer, and rolls back if that is an error.
func (db *DB) TryTx(finish func(answer error) error) {
	db.t.Helper()
	require.ErrorIs(db.t, finish(ErrNo), ErrNo)
	db.RequireOpen()
	require.NoError(db.t, finish(nil))
	db.RequireBatch("COMPLETE", "done")
	db.RequireEvents("batch.noted", "batch.completed")
}
