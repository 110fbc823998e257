package relay_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// The steps at which a consumer's process is killed.
const (
	atHandler    = "handler"
	beforeCommit = "before commit"
	afterCommit  = "after commit"
)

// consumingChild is the main function of a consumer's process.
func consumingChild(ctx context.Context, step string, cfg *relay.Config, stdin *bufio.Reader) {
	var once sync.Once
	wait := func(at string) {
		if at == step {
			once.Do(func() {
				fmt.Println("reached")
				_, err := stdin.ReadString('\n')
				fatal(err)
			})
		}
	}
	cfg.Subscription = "default"
	var rel *relay.Relay
	if url := os.Getenv(childURL); strings.HasPrefix(url, "postgres") {
		poolConfig, err := pgxpool.ParseConfig(url)
		fatal(err)
		applied := false
		poolConfig.ConnConfig.Tracer = commits{func(end bool) {
			if applied && end {
				wait(afterCommit)
			} else if applied {
				wait(beforeCommit)
			}
		}}
		pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
		fatal(err)
		defer pool.Close()
		rel, err = relay.NewConsumer(pool, func(ctx context.Context, tx pgx.Tx, e outbox.Event) error {
			err := apply(ctx, tx, e)
			applied = true
			wait(atHandler)
			return err
		}, cfg)
		fatal(err)
	} else {
		var applied atomic.Bool
		if step == beforeCommit {
			// What the move sets off is in its transaction, and the last of it.
			fatal(dbtest.SQLiteFunction("endstate_wait", func() {
				if applied.Load() {
					wait(beforeCommit)
				}
			}))
			dbtest.SQLiteConnected("CREATE TEMP TRIGGER endstate_wait AFTER UPDATE OF position ON endstate_outbox_cursors BEGIN SELECT endstate_wait(); END")
		}
		db, err := dbtest.OpenSQLite(url)
		fatal(err)
		defer db.Close()
		cfg.Trace = &relay.Trace{Published: func(context.Context, outbox.Event, time.Duration) { wait(afterCommit) }}
		rel, err = relay.NewConsumerSQL(db, func(ctx context.Context, tx *sql.Tx, e outbox.Event) error {
			err := apply(ctx, endstate.SQLiteTx(tx), e)
			applied.Store(true)
			wait(atHandler)
			return err
		}, cfg)
		fatal(err)
	}
	fatal(rel.Run(ctx))
}

// commits is a tracer that calls a function before and after each COMMIT.
type commits struct{ at func(end bool) }

type commitKey struct{}

func (c commits) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if data.SQL == "commit" {
		c.at(false)
		return context.WithValue(ctx, commitKey{}, true)
	}
	return ctx
}

func (c commits) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if ctx.Value(commitKey{}) != nil && data.CommandTag == pgconn.NewCommandTag("COMMIT") {
		c.at(true)
	}
}

// F27: a consumer's process is killed with kill -9 in its handler, before its commit, and after it, and another one goes on: each
// event is applied once.
func TestKilledConsumerAppliesOnce(t *testing.T) {
	t.Parallel()
	for step, kinds := range map[string][]string{atHandler: {"pgx", "sqlite-wal"}, beforeCommit: {"pgx", "sqlite-wal"}, afterCommit: {"pgx", "sqlite-wal"}} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			each(t, kinds, writer, func(t *testing.T, db *database) {
				db.effects(t)
				db.aggregates(t, 20, 5)
				killed := db.start(t, newRecord(t), consuming+step)
				killed.await("reached")
				killed.signal(syscall.SIGKILL)
				killed.wait()
				want := 0
				if step == afterCommit {
					want = 100
				}
				require.Equal(t, want, outboxdbtest.One[int](t, db, "SELECT count(*) FROM effects"))
				other := db.start(t, newRecord(t), consuming)
				eventually(t, "the dead one's partitions are taken", func() bool {
					return strings.Contains(other.log.String(), "another relay died")
				})
				db.settled(t)
				db.requireOnce(t)
				require.Zero(t, db.parked(t, "crashes > 0"))
				other.signal(os.Interrupt.(syscall.Signal))
				other.wait()
			})
		})
	}
}
