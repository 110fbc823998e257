package inbox_test

import (
	"context"
	"database/sql"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/inbox/inboxredis"
)

func TestTableConfigSaysWhatIsWrong(t *testing.T) {
	db := dbtest.SQLite(t)
	for want, cfg := range map[string]*inbox.TableConfig{
		"TableConfig is nil":                       nil,
		"TableConfig.Consumer is empty":            {},
		"TableConfig.Consumer is 201 bytes long":   {Consumer: strings.Repeat("c", 201)},
		"TableConfig.Consumer contains a NUL byte": {Consumer: "a\x00"},
		"TableConfig.Schema is 64 bytes long":      {Consumer: "c", Schema: strings.Repeat("s", 64)},
		"TableConfig.Table is 58 bytes long":       {Consumer: "c", Table: strings.Repeat("t", 58)},
		"TableConfig.Table is not valid UTF-8":     {Consumer: "c", Table: "\xff"},
		"TableConfig.Retention is negative":        {Consumer: "c", Retention: -time.Second},
		"TableConfig.MaxAttempts is 2147483648":    {Consumer: "c", MaxAttempts: 1 << 31},
		`TableConfig.Dialect is "mysql"`:           {Consumer: "c", Dialect: "mysql"},
	} {
		_, err := inbox.NewTableSQL(db, cfg)
		require.ErrorIs(t, err, inbox.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := inbox.NewTableSQL(nil, &inbox.TableConfig{Consumer: "c"})
	require.ErrorContains(t, err, "db is nil")
	_, err = inbox.NewTable(nil, &inbox.TableConfig{Consumer: "c"})
	require.ErrorContains(t, err, "pool is nil")
	for _, none := range []inbox.ClaimStore{nil, (*inboxredis.Store)(nil)} {
		_, err = inbox.NewClaims(none, &inbox.ClaimsConfig{Consumer: "c"})
		require.ErrorIs(t, err, inbox.ErrConfig)
		require.ErrorContains(t, err, "the ClaimStore is nil")
	}
	for _, none := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.Ring)(nil)} {
		_, err = inboxredis.New(none, "")
		require.ErrorIs(t, err, inbox.ErrConfig)
		require.ErrorContains(t, err, "the Redis client is nil")
	}
}

// What could be no record, or no dead letter, is refused by name, on each database alike.
func TestWhatNoRecordCanBeIsRefused(t *testing.T) {
	t.Parallel()
	eachTable(t, func(t *testing.T, c *consumer) {
		for says, change := range map[string]func(*outbox.Event){
			"Type is not valid UTF-8":          func(e *outbox.Event) { e.Type = "\xff" },
			"AggregateType is not valid UTF-8": func(e *outbox.Event) { e.AggregateType = "\xff" },
			"AggregateID is not valid UTF-8":   func(e *outbox.Event) { e.AggregateID = "\xff" },
			"OccurredAt is in the year 10000":  func(e *outbox.Event) { e.OccurredAt = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
			"OccurredAt is in the year -1":     func(e *outbox.Event) { e.OccurredAt = time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC) },
		} {
			e := event()
			change(&e)
			_, err := c.way(charge)(t.Context(), e)
			require.ErrorIs(t, err, inbox.ErrInvalidEvent)
			require.True(t, inbox.Permanent(err))
			require.ErrorContains(t, err, says)
		}
		require.Zero(t, c.credits())
		for _, key := range []string{"", "a\x00", "\xff", strings.Repeat("k", inbox.MaxKey+1)} {
			require.ErrorIs(t, c.table.discard(t.Context(), key), inbox.ErrNotFound)
			_, err := c.table.retry(t.Context(), key, charge)
			require.ErrorIs(t, err, inbox.ErrNotFound)
		}
		_, err := c.table.letters(t.Context(), -1)
		require.ErrorIs(t, err, inbox.ErrConfig)
	})
}

func TestANilFunctionIsAnError(t *testing.T) {
	eachWay(t, func(t *testing.T, c *consumer, way string) {
		if way == "table" {
			_, err := c.way(nil)(t.Context(), event())
			require.ErrorContains(t, err, "the function is nil")
		}
	})
	move := inbox.Status[*sql.Tx](func(context.Context, outbox.Event, string, func(context.Context, *sql.Tx) error) (bool, string, error) {
		return false, "", nil
	})
	_, err := inbox.Handle[inbox.TxFunc[*sql.Tx]](move, nil)(t.Context(), event())
	require.ErrorContains(t, err, "the function is nil")
	for _, none := range []inbox.Way[inbox.TxFunc[*sql.Tx]]{nil, inbox.Status[*sql.Tx](nil), (*inbox.Table[*sql.Tx])(nil)} {
		_, err = inbox.Handle(none, func(context.Context, *sql.Tx, outbox.Event) error { return nil })(t.Context(), event())
		require.ErrorContains(t, err, "the way is nil")
	}
	_, err = inbox.Handle(newClaims(t, dbtest.Redis(t)), nil)(t.Context(), event())
	require.ErrorContains(t, err, "the function is nil")
}

// A missing table is named, and so is what to do.
func TestAMissingTableIsSaid(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		for name, err := range map[string]error{
			"check": c.table.check(t.Context()),
			"handle": func() error {
				_, err := c.way(charge)(t.Context(), event())
				return err
			}(),
			"letters": func() error { _, err := c.table.letters(t.Context(), 1); return err }(),
			"clean":   func() error { _, err := c.table.clean(t.Context()); return err }(),
			"discard": c.table.discard(t.Context(), "k"),
		} {
			require.ErrorIs(t, err, inbox.ErrSchema, name)
			require.ErrorContains(t, err, `"endstate_inbox" does not exist`, name)
		}
	}, func(s *setup) { s.bare = true })
}

func TestMigrateAtOnceAndUnderAnotherName(t *testing.T) {
	eachTable(t, func(t *testing.T, c *consumer) {
		dbtest.AtOnce(8, func(int) {
			if err := c.table.migrate(context.Background()); err != nil {
				t.Error(err)
			}
		})
		require.NoError(t, c.table.check(t.Context()))
		c.exec(`CREATE TABLE IF NOT EXISTS credits (id int, event text, batch text)`)
		e := event()
		for range 2 {
			_, err := c.way(charge)(t.Context(), e)
			require.NoError(t, err)
		}
		require.Equal(t, 1, c.count(`SELECT count(*) FROM "my ""inbox"`))
		require.Equal(t, 1, c.credits())
	}, func(s *setup) { s.bare = true; s.table.Table = `my "inbox` })
}

// Two rows for one key would be two effects: Check doesn't let a table without the primary key pass.
func TestCheckSeesAMissingKey(t *testing.T) {
	c := newConsumer(t, "table", "pgx")
	c.exec(`ALTER TABLE endstate_inbox DROP CONSTRAINT endstate_inbox_pkey`)
	require.ErrorContains(t, c.table.check(t.Context()), "has no unique index over all of its rows on (consumer, key)")
	c.exec(`ALTER TABLE endstate_inbox DROP COLUMN result`)
	require.ErrorContains(t, c.table.check(t.Context()), `has no column "result"`)
}

func TestTheMigrationsOfAllPackagesFitIntoOneFolder(t *testing.T) {
	for _, dialect := range []string{"postgres", "sqlite"} {
		seen := map[string]bool{}
		for _, migrations := range []func(string) (fs.FS, error){guard.Ledger{}.Migrations, outbox.Writer{}.Migrations, inbox.TableConfig{}.Migrations} {
			fsys, err := migrations(dialect)
			require.NoError(t, err)
			names, err := fs.Glob(fsys, "*.sql")
			require.NoError(t, err)
			require.NotEmpty(t, names)
			for _, name := range names {
				version, _, _ := strings.Cut(filepath.Base(name), "_")
				require.False(t, seen[version], name)
				seen[version] = true
			}
		}
	}
	_, err := inbox.TableConfig{}.Migrations("mysql")
	require.ErrorIs(t, err, inbox.ErrConfig)
}
