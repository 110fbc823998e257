package migrations_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// documented returns the statements of a section of docs/privileges.md.
func documented(t *testing.T, section string) (statements []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "privileges.md"))
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	require.True(t, found, section)
	rest, _, _ = strings.Cut(rest, "\n## ")
	_, block, found := strings.Cut(rest, "```sql\n")
	require.True(t, found, section)
	block, _, _ = strings.Cut(block, "```")
	for statement := range strings.SplitSeq(block, ";") {
		if statement = strings.TrimSpace(statement); statement != "" {
			statements = append(statements, statement)
		}
	}
	return statements
}

// privileges is a GRANT's.
var privileges = regexp.MustCompile(`^GRANT (.*) ON (\S+(?: \S+)?) TO \w+$`)

// singly parts GRANT a, b into GRANT a and GRANT b; a list of columns stays with its privilege.
func singly(t *testing.T, statements []string) (single []string) {
	t.Helper()
	for _, statement := range statements {
		parts := privileges.FindStringSubmatch(statement)
		require.NotNil(t, parts, statement)
		if strings.Contains(parts[1], "(") {
			single = append(single, statement)
			continue
		}
		for privilege := range strings.SplitSeq(parts[1], ", ") {
			single = append(single, strings.Replace(statement, parts[1], privilege, 1))
		}
	}
	return single
}

// program is what a role runs: how it checks the database, and what it does there.
type program struct {
	check func(ctx context.Context, pool *pgxpool.Pool) error
	work  func(t *testing.T, pool *pgxpool.Pool)
}

// visit looks at every page of a console, and fails for the first that can't be shown.
func visit(pages *console.Console, paths ...string) error {
	for _, path := range paths {
		answer := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, path, nil)
		request.Header.Set("Accept", "application/json")
		pages.ServeHTTP(answer, request)
		if answer.Code != http.StatusOK || strings.Contains(answer.Body.String(), `"problem"`) {
			return fmt.Errorf("%s: %d %s", path, answer.Code, answer.Body.String())
		}
	}
	return nil
}

// look visits all pages of a console; actions say whether it may act.
func look(ctx context.Context, pool *pgxpool.Pool, actions bool) (*console.Console, error) {
	pages, err := console.New(pool, &console.Config{Actions: actions, User: func(*http.Request) string { return "ada" }, Key: bytes.Repeat([]byte("k"), 32), Logger: slog.New(slog.DiscardHandler), Every: time.Nanosecond})
	if err != nil {
		return nil, err
	}
	admin, err := relay.NewAdmin(pool, nil)
	if err != nil {
		return nil, err
	}
	if err := admin.Check(ctx); err != nil {
		return nil, err
	}
	letters, err := admin.List(ctx, relay.Filter{State: relay.Dead})
	if err != nil {
		return nil, err
	}
	if len(letters.Records) == 0 {
		return nil, errors.New("there are no dead letters")
	}
	event := letters.Records[0]
	return pages, visit(pages, "/", "/events", "/dead", "/history", "/audit", "/subscription?name=default", "/aggregate?key=a", "/events/"+event.ID.String(),
		"/aggregate?type="+event.AggregateType+"&key="+event.AggregateID)
}

// act does all that a console does.
func act(ctx context.Context, pool *pgxpool.Pool) error {
	pages, err := look(ctx, pool, true)
	if err != nil {
		return err
	}
	admin, err := relay.NewAdmin(pool, nil)
	if err != nil {
		return err
	}
	stats, err := admin.Stats(ctx)
	if err != nil {
		return err
	}
	gone := stats[len(stats)-1].Subscription
	from, to := time.Now().Add(-24*time.Hour).UTC().Format(time.RFC3339), time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for _, form := range []url.Values{
		{"": {"/dead"}, "action": {"retry"}}, {"": {"/dead"}, "action": {"discard"}},
		{"": {"/replay"}, "name": {"default"}, "from": {to}}, {"": {"/replay"}, "name": {"default"}, "from": {from}, "to": {to}},
		{"": {"/drop"}, "name": {gone}},
	} {
		if form.Has("action") {
			letters, err := admin.List(ctx, relay.Filter{State: relay.Dead})
			if err != nil {
				return err
			}
			form.Set("id", letters.Records[0].ID.String())
		}
		path := form.Get("")
		form.Set("reason", "because")
		asked, answer := httptest.NewRequest(http.MethodGet, "/audit", nil), httptest.NewRecorder()
		asked.Header.Set("Accept", "application/json")
		pages.ServeHTTP(answer, asked)
		form.Set("token", answer.Header().Get("X-Endstate-Token"))
		request := httptest.NewRequest(http.MethodPost, path, strings.NewReader(form.Encode()))
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		answer = httptest.NewRecorder()
		pages.ServeHTTP(answer, request)
		if answer.Code != http.StatusOK {
			return fmt.Errorf("%s: %d %s", path, answer.Code, answer.Body.String())
		}
	}
	return nil
}

// operate is an operator's whole work. It has no check: the server's refusal says it.
func operate(ctx context.Context, pool *pgxpool.Pool) error {
	admin, err := relay.NewAdmin(pool, nil)
	if err != nil {
		return err
	}
	by := relay.By{Subscription: relay.DefaultSubscription, Who: "somebody", Why: "because"}
	for _, decide := range []func(context.Context, relay.By, ...uuid.UUID) ([]uuid.UUID, error){admin.Retry, admin.Discard} {
		letters, err := admin.List(ctx, relay.Filter{State: relay.Dead})
		if err != nil {
			return err
		}
		if len(letters.Records) == 0 {
			return errors.New("there are no dead letters")
		}
		id := letters.Records[0].ID
		if _, err := admin.Show(ctx, id); err != nil {
			return err
		}
		if _, err := decide(ctx, by, id); err != nil {
			return err
		}
	}
	now := time.Now()
	for _, r := range []relay.Replay{{From: now}, {From: now.Add(-24 * time.Hour), To: now.Add(time.Hour)}} {
		if _, err := admin.Replay(ctx, by, r); err != nil {
			return err
		}
	}
	stats, err := admin.Stats(ctx)
	if err != nil {
		return err
	}
	by.Subscription = stats[len(stats)-1].Subscription
	if by.Subscription == relay.DefaultSubscription {
		return errors.New("there is no subscription to drop")
	}
	if err := admin.Drop(ctx, by); err != nil {
		return err
	}
	if _, _, err := admin.History(ctx, "", 0, 10); err != nil {
		return err
	}
	_, err = admin.Purge(ctx, time.Minute)
	return err
}

func finalizer(pool *pgxpool.Pool) (*finalize.Finalizer[pgx.Tx], error) {
	status := guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Names("DONE")}
	return finalize.New(pool, &finalize.Config{Aggregate: "batch", Guard: guard.All(status, guard.Ledger{}), Cache: finalize.CacheConfig{Off: true}, Logger: slog.New(slog.DiscardHandler)})
}

var programs = map[string]program{
	"Finalizer": {
		func(ctx context.Context, pool *pgxpool.Pool) error {
			fin, err := finalizer(pool)
			if err != nil {
				return err
			}
			return fin.Check(ctx)
		},
		func(t *testing.T, pool *pgxpool.Pool) {
			fin, err := finalizer(pool)
			require.NoError(t, err)
			done := finalize.Outcome{State: "DONE", Events: []outbox.Event{{Type: "done", Payload: []byte("{}")}}}
			for range 2 { // to win, and to lose
				_, err = fin.Do(t.Context(), guard.Text("a"), "t", func(context.Context, pgx.Tx) (finalize.Outcome, error) { return done, nil })
				require.NoError(t, err)
				_, err = fin.Settle(t.Context(), guard.Text("b"), "t", done)
				require.NoError(t, err)
				_, err = fin.SettleMany(t.Context(), "t", []finalize.Item{{Key: guard.Text("c"), Outcome: done}, {Key: guard.Text("d"), Outcome: done}})
				require.NoError(t, err)
			}
		},
	},
	"Producer": {
		func(ctx context.Context, pool *pgxpool.Pool) error { return outbox.Writer{}.Check(ctx, pool) },
		func(t *testing.T, pool *pgxpool.Pool) {
			event := outbox.Event{AggregateType: "batch", AggregateID: "p", Type: "put", DedupKey: "p", Payload: []byte("{}")}
			for _, inserted := range []bool{true, false} {
				require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
					results, err := outbox.Put(t.Context(), tx, event)
					require.NoError(t, err)
					require.Equal(t, inserted, results[0].Inserted)
					return nil
				}))
			}
			_, err := pool.Exec(t.Context(), "SELECT payload FROM endstate_outbox")
			require.ErrorContains(t, err, "permission denied")
		},
	},
	"Relay": {
		func(ctx context.Context, pool *pgxpool.Pool) error { return relay.Check(ctx, pool, outbox.Writer{}) },
		func(t *testing.T, pool *pgxpool.Pool) {
			published := make(chan string, 10)
			publisher := outbox.PublisherFunc(func(_ context.Context, e outbox.Event) error {
				published <- e.Type
				return nil
			})
			r, err := relay.New(pool, publisher, &relay.Config{Retention: relay.DeleteOnPublish, Logger: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			ran := make(chan error, 1)
			go func() { ran <- r.Run(ctx) }()
			require.Equal(t, "before", <-published)
			require.Eventually(t, func() bool {
				var n int
				return pool.QueryRow(t.Context(), "SELECT count(*) FROM endstate_outbox").Scan(&n) == nil && n == 0
			}, time.Minute, 10*time.Millisecond, "retention")
			cancel()
			require.NoError(t, <-ran)
			_, err = pool.Exec(t.Context(), "UPDATE endstate_outbox SET payload = ''")
			require.ErrorContains(t, err, "permission denied")
		},
	},
	"Operator": {
		operate,
		func(t *testing.T, pool *pgxpool.Pool) {
			_, err := pool.Exec(t.Context(), "DELETE FROM endstate_outbox_audit")
			require.ErrorContains(t, err, "permission denied")
		},
	},
	"Console": {
		func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := look(ctx, pool, false)
			return err
		},
		func(t *testing.T, pool *pgxpool.Pool) {
			admin, err := relay.NewAdmin(pool, nil)
			require.NoError(t, err)
			require.ErrorContains(t, admin.Drop(t.Context(), relay.By{Subscription: "default", Who: "ada", Why: "because"}), "permission denied")
		},
	},
	"Console with actions": {
		act,
		func(t *testing.T, pool *pgxpool.Pool) {
			_, err := pool.Exec(t.Context(), "DELETE FROM endstate_outbox")
			require.ErrorContains(t, err, "permission denied")
		},
	},
	"Consumer": {
		func(ctx context.Context, pool *pgxpool.Pool) error {
			table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "c"})
			if err != nil {
				return err
			}
			return table.Check(ctx)
		},
		func(t *testing.T, pool *pgxpool.Pool) {
			table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "c"})
			require.NoError(t, err)
			handler := inbox.Handle(table, func(context.Context, pgx.Tx, outbox.Event) error { return nil })
			event := outbox.Event{ID: uuid.New(), AggregateType: "batch", AggregateID: "p", Type: "put", Payload: []byte("{}")}
			for range 2 {
				_, err := handler(t.Context(), event)
				require.NoError(t, err)
			}
			_, err = table.Clean(t.Context())
			require.NoError(t, err)
		},
	},
}

// Under what docs/privileges.md grants each program's check is content and its work succeeds; without any one of the grants
// the check says which is lacking, with the statement that helps.
func TestLeastPrivileges(t *testing.T) {
	t.Parallel()
	for section, p := range programs {
		t.Run(section, func(t *testing.T) {
			t.Parallel()
			url := dbtest.Postgres(t)
			owner := dbtest.PoolOn(t, url)
			require.NoError(t, migrations.Apply(t.Context(), owner))
			called := strings.ReplaceAll(strings.ToLower(section), " ", "_")
			operates := section == "Operator" || strings.HasPrefix(section, "Console")
			for _, statement := range []string{"CREATE TABLE batches (id text PRIMARY KEY, status text)", "INSERT INTO batches VALUES ('a'), ('b'), ('c'), ('d')"} {
				_, err := owner.Exec(t.Context(), statement)
				require.NoError(t, err)
			}
			require.NoError(t, pgx.BeginFunc(t.Context(), owner, func(tx pgx.Tx) error {
				events := []outbox.Event{{AggregateType: "batch", AggregateID: "r", Type: "before", Payload: []byte("{}")}}
				if operates { // who uses up dead letters
					events = slices.Repeat(events, 50)
				}
				_, err := outbox.Put(t.Context(), tx, events...)
				return err
			}))
			if operates {
				for _, statement := range []string{
					"INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) VALUES ('default', '[]', '', 'begin')",
					"INSERT INTO endstate_outbox_subscriptions (name, types, destination, start) SELECT 'gone ' || n, '[]', '', 'begin' FROM generate_series(1, 50) AS n",
					`INSERT INTO endstate_outbox_parked (subscription, partition, seq, event_id, aggregate_type, aggregate_id, dead_at)
SELECT 'default', partition, seq, id, aggregate_type, aggregate_id, now() FROM endstate_outbox`,
					"INSERT INTO endstate_outbox_cursors (subscription, partition, token, position, snapshot, cluster) SELECT 'default', n, gen_random_uuid(), 1000, pg_current_snapshot(), 0 FROM generate_series(0, 7) AS n",
					"INSERT INTO endstate_outbox_samples (subscription, partition, at, position) SELECT 'default', n, now() - interval '1 hour', 1000 FROM generate_series(0, 7) AS n"} {
					_, err := owner.Exec(t.Context(), statement)
					require.NoError(t, err)
				}
			}
			grants := singly(t, documented(t, section))
			version := "GRANT SELECT ON endstate_migrations TO " + called
			require.Regexp(t, `TO .*\b`+called+`\b`, documented(t, "For everybody")[0])
			as := func(grants []string) *pgxpool.Pool {
				role := newRole(t, owner)
				for _, g := range append(slices.Clone(grants), version) {
					_, err := owner.Exec(t.Context(), strings.Replace(g, " TO "+called, " TO "+role, 1))
					require.NoError(t, err, g)
				}
				return as(t, url, role)
			}
			for i, left := range grants {
				without := as(slices.Delete(slices.Clone(grants), i, i+1))
				err := p.check(t.Context(), without)
				require.Error(t, err, "it isn't missed: %s", left)
				if operates { // whose check doesn't say all of it: the server does
					continue
				}
				require.ErrorContains(t, err, "lacks a privilege: GRANT ", left)
			}
			pool := as(grants)
			require.NoError(t, p.check(t.Context(), pool))
			p.work(t, pool)
		})
	}
}

// The migrator, who owns nothing of the database, makes the tables with what the document grants it.
func TestTheMigratorsPrivileges(t *testing.T) {
	t.Parallel()
	url := dbtest.Postgres(t)
	owner := dbtest.PoolOn(t, url)
	role := newRole(t, owner)
	_, err := owner.Exec(t.Context(), "REVOKE CREATE ON SCHEMA public FROM PUBLIC") // as it is from PostgreSQL 15
	require.NoError(t, err)
	require.Error(t, migrations.Apply(t.Context(), as(t, url, role)))
	for _, g := range documented(t, "Migrator") {
		_, err := owner.Exec(t.Context(), strings.Replace(g, " TO migrator", " TO "+role, 1))
		require.NoError(t, err)
	}
	require.NoError(t, migrations.Apply(t.Context(), as(t, url, role)))
}
