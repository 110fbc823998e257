// Package endstate_test compiles the README's code, so that it can't rot.
package endstate_test

import (
	"context"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock/lockredis"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/redisstream"
	"github.com/endstate-go/endstate/outbox/relay"
)

// Every line of Go in the README stands in this file.
func TestReadmeIsCompiled(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("readme_test.go")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(readme), -1)
	require.NotEmpty(t, blocks)
	compiled := unindented(string(source))
	for _, block := range blocks {
		require.Contains(t, compiled, unindented(block[1]), "a block of Go in README.md that readme_test.go doesn't compile")
	}
}

func unindented(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimSpace(line)
	}
	return strings.Join(lines, "\n")
}

var _ = []any{finalizer, trigger, scoring, publishing, consuming, looking}

func finalizer(ctx context.Context, pool *pgxpool.Pool) error {
	status := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")}
	fin, err := finalize.New(pool, &finalize.Config{
		Aggregate: "batch",
		Guard:     guard.All(status, guard.Ledger{}), // the ledger: who, when, which trigger
	})
	if err != nil {
		return err
	}
	if err := fin.Migrate(ctx); err != nil { // endstate_ledger and endstate_outbox
		return err
	}
	// A trigger on batches refuses what would leave a terminal state: an ORM that saves a stale copy, or a hand-written UPDATE.
	if err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return status.Protect(ctx, tx) }); err != nil {
		return err
	}
	if err := fin.Check(ctx); err != nil { // says what is missing, and what to do
		return err
	}
	return nil
}

func trigger(ctx context.Context, fin *finalize.Finalizer[pgx.Tx], batchID uuid.UUID) (finalize.Receipt, error) {
	receipt, err := fin.Do(ctx, guard.UUID(batchID), "threshold", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
		result, err := rank(ctx, tx, batchID)
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
	// receipt.Won, receipt.State, receipt.Trigger, receipt.At: who finalized this batch, when and by which trigger
	return receipt, err
}

type ranking struct{ Done bool }

func (ranking) Thin() []byte { return nil }
func (ranking) Rich() []byte { return nil }

func rank(context.Context, pgx.Tx, uuid.UUID) (ranking, error)        { return ranking{}, nil }
func score(context.Context, uuid.UUID) (ranking, error)               { return ranking{}, nil }
func save(context.Context, pgx.Tx, ranking) (finalize.Outcome, error) { return finalize.Outcome{}, nil }
func credit(ctx context.Context, tx pgx.Tx, event outbox.Event) error { return nil }
func typeAndBatch(event outbox.Event) (string, error) {
	return event.Type + "/" + event.AggregateID, nil
}

func scoring(ctx context.Context, rdb redis.UniversalClient, fin *finalize.Finalizer[pgx.Tx], batchID uuid.UUID) (finalize.Receipt, error) {
	locks, err := lockredis.New(rdb, nil) // or lock.NewPostgres, lock.NewLocal; then finalize.Config{Lock: finalize.LockConfig{Locker: locks}}
	if err != nil {
		return finalize.Receipt{}, err
	}
	defer locks.Close()

	receipt, err := fin.DoPrepared(ctx, guard.UUID(batchID), "sweep", func(ctx context.Context) (finalize.Func[pgx.Tx], error) {
		result, err := score(ctx, batchID) // long, in no transaction
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
			return save(ctx, tx, result) // short, in the one that finalizes
		}, nil
	})
	return receipt, err
}

func publishing(ctx context.Context, pool *pgxpool.Pool, rdb redis.UniversalClient) error {
	publisher, err := redisstream.New(rdb, nil) // or webhook, natsjs, outbox.PublisherFunc, outbox.Channel
	if err != nil {
		return err
	}
	rel, err := relay.New(pool, publisher, nil) // takes three of the pool's connections at a time
	if err != nil {
		return err
	}
	return rel.Run(ctx) // in any number of processes; rel.Wake, called in finalize's Trace.Won, has it publish at once
}

func consuming(ctx context.Context, pool *pgxpool.Pool) (inbox.Handler, error) {
	table, err := inbox.NewTable(pool, &inbox.TableConfig{
		Consumer: "entitlements",
		Types:    []string{"assessment.completed"}, // others are skipped
		Key:      typeAndBatch,                     // a batch that is announced twice is credited once; default: the event's id
	})
	if err != nil {
		return nil, err
	}
	if err := table.Migrate(ctx); err != nil { // endstate_inbox
		return nil, err
	}
	handler := inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error {
		return credit(ctx, tx, event) // in the transaction that records the event
	})
	return handler, nil
}

func looking(pool *pgxpool.Pool, mux *http.ServeMux, nameOf func(*http.Request) string) error {
	admin, err := console.New(pool, &console.Config{
		Actions: true, // dead letters can be retried and discarded, subscriptions replayed and dropped, on the record
		User:    func(r *http.Request) string { return nameOf(r) },
	})
	if err != nil {
		return err
	}
	mux.Handle("/admin/endstate/", http.StripPrefix("/admin/endstate", admin))
	return nil
}
