package finalize_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	_ "modernc.org/sqlite"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// exampleDB is a SQLite database with one open batch.
func exampleDB() (db *sql.DB, done func()) {
	dir, err := os.MkdirTemp("", "example")
	check(err)
	db, err = sql.Open("sqlite", "file:"+filepath.Join(dir, "example.db")+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)")
	check(err)
	_, err = db.Exec(`CREATE TABLE batches (id TEXT PRIMARY KEY, status TEXT, done INTEGER); INSERT INTO batches VALUES ('b1', 'PENDING', 5)`)
	check(err)
	return db, func() {
		check(db.Close())
		check(os.RemoveAll(dir))
	}
}

func exampleFinalizer(db *sql.DB, g guard.Guard) *finalize.Finalizer[*sql.Tx] {
	fin, err := finalize.NewSQL(db, &finalize.Config{Aggregate: "batch", Guard: g, Logger: slog.New(slog.DiscardHandler)})
	check(err)
	check(fin.Migrate(context.Background()))
	return fin
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func batchStatus() guard.Status {
	return guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
}

// The main use: a trigger calls Do, and the callback decides whether the batch is ready and with which outcome it ends.
func ExampleFinalizer_Do() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, guard.All(batchStatus(), guard.Ledger{}))
	ctx := context.Background()

	finish := func(ctx context.Context, tx *sql.Tx) (finalize.Outcome, error) {
		var done int
		if err := tx.QueryRowContext(ctx, `SELECT done FROM batches WHERE id = 'b1'`).Scan(&done); err != nil {
			return finalize.Outcome{}, err
		}
		if done < 8 {
			return finalize.Outcome{}, finalize.ErrNotReady
		}
		return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
			{Type: "assessment.completed", Payload: []byte(`{"batch":"b1"}`)},
		}}, nil
	}

	_, err := fin.Do(ctx, guard.Text("b1"), "periodic", finish)
	fmt.Println("too early:", errors.Is(err, finalize.ErrNotReady))

	_, err = db.Exec(`UPDATE batches SET done = 8`)
	check(err)
	for _, trigger := range []finalize.Trigger{"threshold", "sweep"} {
		receipt, err := fin.Do(ctx, guard.Text("b1"), trigger, finish)
		check(err)
		fmt.Printf("%s won: %t, it is %s by %s\n", trigger, receipt.Won, receipt.State, receipt.Trigger)
	}
	// Output:
	// too early: true
	// threshold won: true, it is COMPLETE_STABLE by threshold
	// sweep won: false, it is COMPLETE_STABLE by threshold
}

// With the outcome known beforehand no callback is needed, and a loser learns whether the winner decided otherwise.
func ExampleFinalizer_Settle() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, guard.All(batchStatus(), guard.Ledger{}))
	ctx := context.Background()

	for _, call := range []struct {
		trigger finalize.Trigger
		state   string
	}{{"webhook", "COMPLETE_STABLE"}, {"poller", "COMPLETE_STABLE"}, {"timeout", "ERROR_PROCESSING"}} {
		r, err := fin.Settle(ctx, guard.Text("b1"), call.trigger, finalize.Outcome{State: call.state})
		check(err)
		fmt.Printf("%s wanted %s: won %t, it is %s, differs %t\n", call.trigger, call.state, r.Won, r.State, r.Differs)
	}
	// Output:
	// webhook wanted COMPLETE_STABLE: won true, it is COMPLETE_STABLE, differs false
	// poller wanted COMPLETE_STABLE: won false, it is COMPLETE_STABLE, differs false
	// timeout wanted ERROR_PROCESSING: won false, it is COMPLETE_STABLE, differs true
}

// A sweep settles many at once, and reports each.
func ExampleFinalizer_SettleMany() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, guard.All(batchStatus(), guard.Ledger{}))
	_, err := db.Exec(`INSERT INTO batches VALUES ('b2', 'PENDING', 0), ('b3', 'PENDING', 0)`)
	check(err)

	abandoned := finalize.Outcome{State: "ERROR_PROCESSING", Events: []outbox.Event{{Type: "assessment.failed", Payload: []byte(`{}`)}}}
	results, err := fin.SettleMany(context.Background(), "sweep", []finalize.Item{
		{Key: guard.Text("b1"), Outcome: finalize.Outcome{State: "COMPLETE_STABLE"}},
		{Key: guard.Text("b2"), Outcome: abandoned},
		{Key: guard.Text("b3"), Outcome: abandoned},
		{Key: guard.Text("b4"), Outcome: abandoned},
	})
	for _, r := range results {
		fmt.Println(r.Receipt.Won, r.Receipt.State, errors.Is(r.Err, guard.ErrNotFound))
	}
	fmt.Println("all of them:", err == nil)
	// Output:
	// true COMPLETE_STABLE false
	// true ERROR_PROCESSING false
	// true ERROR_PROCESSING false
	// false  true
	// all of them: false
}

// A batch whose process died before any trigger fired is found by the sweeper. A service runs it with Run.
func ExampleSweeper() {
	db, done := exampleDB()
	defer done()
	_, err := db.Exec(`ALTER TABLE batches ADD COLUMN touched TEXT; UPDATE batches SET touched = datetime('now', '-1 hour')`)
	check(err)
	status := batchStatus()
	status.Touched = "touched"
	fin := exampleFinalizer(db, status)

	sweeper, err := finalize.NewSweeper(fin, func(ctx context.Context, tx *sql.Tx, key guard.Key) (finalize.Outcome, error) {
		return finalize.Outcome{State: "ERROR_PROCESSING", Events: []outbox.Event{
			{Type: "assessment.failed", Payload: []byte(`{"why":"stuck"}`)},
		}}, nil
	}, &finalize.SweeperConfig{Every: time.Minute, Idle: 10 * time.Minute})
	check(err)
	for range 2 {
		swept := sweeper.Sweep(context.Background())
		fmt.Printf("found %d, won %d\n", swept.Found, swept.Won)
	}
	// Output:
	// found 1, won 1
	// found 0, won 0
}

// In a transaction that the service has open already, Won means "if you commit".
func ExampleFinalizer_DoTx() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, batchStatus())
	ctx := context.Background()

	for _, commit := range []bool{false, true} {
		tx, err := db.BeginTx(ctx, nil)
		check(err)
		r, err := fin.DoTx(ctx, tx, guard.Text("b1"), "operator", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			return finalize.Outcome{State: "COMPLETE_STABLE"}, nil
		})
		check(err)
		if commit {
			check(tx.Commit())
		} else {
			check(tx.Rollback())
		}
		fmt.Printf("won: %t, committed: %t\n", r.Won, commit)
	}
	// Output:
	// won: true, committed: false
	// won: true, committed: true
}

// Code that bypassed the finalizer set the status: an anomaly, which a finalizer with just the open guard fixes.
func ExampleFinalizer_anomaly() {
	db, done := exampleDB()
	defer done()
	ctx := context.Background()
	fin := exampleFinalizer(db, guard.All(batchStatus(), guard.Ledger{}))
	_, err := db.Exec(`UPDATE batches SET status = 'COMPLETE_STABLE'`)
	check(err)

	_, err = fin.Settle(ctx, guard.Text("b1"), "sweep", finalize.Outcome{State: "COMPLETE_STABLE"})
	var anomaly *guard.AnomalyError
	if errors.As(err, &anomaly) {
		for _, r := range anomaly.Records {
			fmt.Printf("%s final: %t\n", r.Guard, r.Record.Final)
		}
	}

	repair := exampleFinalizer(db, guard.Ledger{})
	_, err = repair.Settle(ctx, guard.Text("b1"), "repair", finalize.Outcome{State: "COMPLETE_STABLE"})
	check(err)
	r, err := fin.Settle(ctx, guard.Text("b1"), "sweep", finalize.Outcome{State: "COMPLETE_STABLE"})
	check(err)
	fmt.Println("now it is", r.State, "by", r.Trigger)
	// Output:
	// status "batches" final: true
	// ledger "endstate_ledger" final: false
	// now it is COMPLETE_STABLE by repair
}

// flagGuard is a guard of a service's own, over a boolean column: two methods.
type flagGuard struct{}

func (flagGuard) Claim(ctx context.Context, tx endstate.Tx, ref guard.Ref) (guard.Record, error) {
	// On SQLite the first statement has to be a write, so that it waits for other writers.
	if _, err := tx.Exec(ctx, `UPDATE jobs SET finished = finished WHERE false`); err != nil {
		return guard.Record{}, err
	}
	var finished bool
	err := tx.QueryRow(ctx, `SELECT finished FROM jobs WHERE id = $1`, ref.Key.Args()...).Scan(&finished)
	if errors.Is(err, pgx.ErrNoRows) {
		return guard.Record{}, guard.ErrNotFound
	}
	return guard.Record{Final: finished, State: "finished"}, err
}

func (flagGuard) Settle(ctx context.Context, tx endstate.Tx, ref guard.Ref, to guard.Transition) (guard.Record, error) {
	if to.State != "finished" {
		return guard.Record{}, guard.ErrNotTerminal
	}
	tag, err := tx.Exec(ctx, `UPDATE jobs SET finished = true WHERE id = $1 AND NOT finished`, ref.Key.Args()...)
	if err == nil && tag.RowsAffected() == 0 {
		err = guard.ErrNotOpen
	}
	return guard.Record{Final: true, State: to.State}, err
}

// A guard of one's own.
func ExampleNewSQL_ownGuard() {
	db, done := exampleDB()
	defer done()
	_, err := db.Exec(`CREATE TABLE jobs (id INTEGER PRIMARY KEY, finished BOOLEAN NOT NULL); INSERT INTO jobs VALUES (7, false)`)
	check(err)
	fin := exampleFinalizer(db, flagGuard{})
	for range 2 {
		r, err := fin.Settle(context.Background(), guard.Int(7), "worker", finalize.Outcome{State: "finished"})
		check(err)
		fmt.Println("won:", r.Won)
	}
	// Output:
	// won: true
	// won: false
}

// The README's code, on pgx.
func Example() {
	type result struct {
		Done       bool
		Thin, Rich func() []byte
	}
	var rank func(context.Context, pgx.Tx, guard.Key) (result, error)

	_ = func(ctx context.Context, pool *pgxpool.Pool, batch guard.Key) error {
		fin, err := finalize.New(pool, &finalize.Config{
			Aggregate: "batch",
			Guard: guard.All(
				guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
				guard.Ledger{}, // who, when, which trigger
			),
		})
		if err != nil {
			return err
		}
		if err := fin.Migrate(ctx); err != nil { // endstate_ledger and endstate_outbox
			return err
		}

		receipt, err := fin.Do(ctx, batch, "threshold", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
			result, err := rank(ctx, tx, batch)
			if err != nil {
				return finalize.Outcome{}, err // rolled back: the next trigger tries again
			}
			if !result.Done {
				return finalize.Outcome{}, finalize.ErrNotReady // nothing is written
			}
			return finalize.Outcome{State: "COMPLETE_STABLE", Events: []outbox.Event{
				{Type: "assessment.completed", Payload: result.Thin()},
				{Type: "assessment.result", Payload: result.Rich()},
			}}, nil
		})
		if err != nil {
			return err
		}
		slog.Info("batch", "won", receipt.Won, "state", receipt.State, "trigger", receipt.Trigger, "at", receipt.At)
		return nil
	}
}
