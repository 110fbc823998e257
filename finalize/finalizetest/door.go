// Package finalizetest is for tests of a service's triggers:
//
//   - New makes a real door on a *sql.DB that the test opened, such as SQLite in memory, within milliseconds.
//   - Schema makes a schema of a test's own in a PostgreSQL, with a URL for any driver. On pgx, open a pool on it, make the door by
//     finalize.New, and give RequireEvents and Subscribe stdlib.OpenDBFromPool(pool).
//   - Script is a door that answers as the test says (lost, busy, unknown, in conflict) and otherwise asks the real one.
//   - RequireEvents compares the events of an aggregate, and says what is there instead.
//   - Subscribe runs a relay, whose subscription is recorded.
package finalizetest

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/outboxtest"
	"github.com/endstate-go/endstate/outbox/relay"
)

// New returns a Finalizer on db, whose tables it makes; those of the service must be there. Each connection to a SQLite database
// in memory would have one of its own, so that such a db is set to a single one: a callback that asks db, and not its tx, then waits
// forever, as it would for a pool that is used up. Config.Logger is the test's output by default.
func New(t testing.TB, db *sql.DB, cfg *finalize.Config) *finalize.Finalizer[*sql.Tx] {
	t.Helper()
	single(t, db, cfg.Dialect)
	c := *cfg
	c.Logger = cmp.Or(c.Logger, slog.New(slog.NewTextHandler(t.Output(), nil)))
	fin, err := finalize.NewSQL(db, &c)
	if err == nil {
		err = fin.Migrate(t.Context())
	}
	if err == nil {
		err = fin.Check(t.Context())
	}
	if err != nil {
		t.Fatalf("finalizetest: %v", err)
	}
	return fin
}

// single leaves a SQLite database in memory with one connection.
func single(t testing.TB, db *sql.DB, named string) {
	t.Helper()
	if d, err := sqltx.Choose(db, named); err != nil || d != sqltx.SQLite {
		return // NewSQL says what is wrong
	}
	var file string
	if err := db.QueryRowContext(t.Context(), "SELECT file FROM pragma_database_list WHERE name = 'main'").Scan(&file); err != nil {
		t.Fatalf("finalizetest: %v", err)
	}
	if file == "" {
		db.SetMaxOpenConns(1)
		db.SetConnMaxLifetime(0)
		db.SetConnMaxIdleTime(0)
	}
}

// Schema makes a schema in the PostgreSQL at server, which goes at the test's end, and returns a URL for connections whose
// search_path is that schema. pgx and lib/pq take it.
func Schema(t testing.TB, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal("finalizetest: the server's URL can't be parsed") // the error would show its password
	}
	name := "t_" + strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	run := func(statement string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		conn, err := pgx.Connect(ctx, server)
		if err == nil {
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, statement)
		}
		if err != nil {
			t.Fatalf("finalizetest: %v", err)
		}
	}
	run("CREATE SCHEMA " + name)
	t.Cleanup(func() { run("DROP SCHEMA " + name + " CASCADE") })
	query := u.Query()
	query.Set("search_path", name)
	u.RawQuery = query.Encode()
	return u.String()
}

// RequireEvents ends the test unless the outbox has events of exactly these types for an aggregate, in this order.
func RequireEvents(t testing.TB, db *sql.DB, aggregate string, key guard.Key, types ...string) {
	t.Helper()
	in(t, db, func(tx endstate.Tx) {
		t.Helper()
		outboxtest.RequireTypes(t, tx, outboxtest.Match{AggregateType: aggregate, AggregateID: key.String()}, types...)
	})
}

// in runs fn in a transaction that leaves nothing behind.
func in(t testing.TB, db *sql.DB, fn func(endstate.Tx)) {
	t.Helper()
	dialect, err := sqltx.Choose(db, "")
	if err != nil {
		t.Fatalf("finalizetest: %v", err)
	}
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatalf("finalizetest: %v", err)
	}
	defer func() { _ = tx.Rollback() }()
	fn(sqltx.Wrap(tx, dialect))
}

// Subscribe runs a relay on db until the test's end, and returns the recorder that it publishes to: Wait for as many events as the
// test has put. Config says which subscription, and for which types; nil is the default one. A new subscription begins with the
// first event of the outbox. PollInterval is short by default.
func Subscribe(t testing.TB, db *sql.DB, config *relay.Config) *outboxtest.Recorder {
	t.Helper()
	single(t, db, "")
	cfg := relay.Config{}
	if config != nil {
		cfg = *config
	}
	cfg.PollInterval = cmp.Or(cfg.PollInterval, 10*time.Millisecond)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.NewTextHandler(t.Output(), nil)))
	recorder := &outboxtest.Recorder{}
	rel, err := relay.NewSQL(db, recorder, &cfg)
	if err != nil {
		t.Fatalf("finalizetest: %v", err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil && ctx.Err() == nil {
			t.Errorf("finalizetest: the relay ended: %v", err)
		}
	})
	return recorder
}

// describe is how an answer and a call are named in a test's output.
func describe(method string, key guard.Key, trigger finalize.Trigger) string {
	return fmt.Sprintf("%s of %v by %q", method, key, trigger)
}
