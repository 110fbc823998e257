package relay_test

import (
	"math"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

func TestRelayConfigNamesTheField(t *testing.T) {
	t.Parallel()
	db := newDatabase(t, "sqlite-wal")
	for says, cfg := range map[string]relay.Config{
		"relay.Config.BatchSize is -1":               {BatchSize: -1},
		"relay.Config.BatchSize is 10001":            {BatchSize: 10_001},
		"relay.Config.PublishTimeout is negative":    {PublishTimeout: -1},
		"relay.Config.ShutdownTimeout is negative":   {ShutdownTimeout: -1},
		"relay.Config.PollInterval is negative":      {PollInterval: -1},
		"relay.Config.LeaseTTL is 1ms":               {LeaseTTL: time.Millisecond},
		"relay.Config.LeaseTTL is 2562047h":          {LeaseTTL: math.MaxInt64},
		"relay.Config.MinBackoff is negative":        {MinBackoff: -1},
		"relay.Config.MaxBackoff is shorter":         {MinBackoff: time.Minute, MaxBackoff: time.Second},
		"relay.Config.MaxAttempts is negative":       {MaxAttempts: -1},
		"relay.Config.MaxCrashes is negative":        {MaxCrashes: -1},
		"relay.Config.Retention is negative":         {Retention: -time.Hour},
		"relay.Config.Retention is longer":           {Retention: math.MaxInt64},
		`Dialect is "mysql"`:                         {Dialect: "mysql"},
		"relay.Config.Name contains a NUL byte":      {Name: "\x00"},
		"relay.Config.ListenURL is not a connection": {ListenURL: "postgres://u:secret@h:x/d"},
		"relay.Config.ListenURL is for PostgreSQL":   {ListenURL: "postgres://h/d"},
		`relay.Config.Start is "noon"`:               {Start: "noon"},
		`relay.Config.Start is "0000-01-01`:          {Start: relay.At(time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC))},
		`relay.Config.Start is "10000-01-01`:         {Start: relay.At(time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -3600)))},
		`relay.Config.Types has "a*b"`:               {Types: []string{"a*b"}},
		"relay.Config.Subscription contains a NUL":   {Subscription: "\x00"},
		"relay.Config.Destination is not scheme":     {Destination: "u:secret@h"},
		"relay.Config.Destination is not scheme and": {Destination: "\xff"},
		"Writer.MaxPayload is -1":                    {Outbox: outbox.Writer{MaxPayload: -1}},
	} {
		_, err := relay.NewSQL(db.SQL, &recorder{}, &cfg)
		require.ErrorIs(t, err, outbox.ErrConfig, says)
		require.ErrorContains(t, err, says)
		require.NotContains(t, err.Error(), "secret")
	}
	for _, none := range []outbox.Publisher{nil, outbox.PublisherFunc(nil), outbox.Channel(nil), (*recorder)(nil)} {
		_, err := relay.NewSQL(db.SQL, none, nil)
		require.ErrorIs(t, err, outbox.ErrConfig)
		require.ErrorContains(t, err, "the publisher is nil")
	}
	_, err := relay.New((*pgxpool.Pool)(nil), &recorder{}, nil)
	require.ErrorContains(t, err, "the database is nil")
	_, err = relay.NewNotifierSQL(db.SQL, nil)
	require.ErrorContains(t, err, "SQLite has no NOTIFY")
}

// What people ask for that no row can have is refused by name, before anything is sent: PostgreSQL would call it an error of its own,
// and SQLite compare times as text, by which the year 10000 is before 2026.
func TestAnAdminNamesWhatNoRowCanHave(t *testing.T) {
	t.Parallel()
	early, late := time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 23, 30, 0, 0, time.FixedZone("", -3600))
	by, now := relay.By{Subscription: "default", Who: "me", Why: "a test"}, time.Now()
	for _, name := range []string{"pgx", "sqlite-wal"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, name)
			db.Migrate(t, outbox.Writer{})
			admin := db.admin(t)
			ctx := t.Context()
			for says, call := range map[string]func() error{
				"Replay.From is in the year 10000":          func() error { _, err := admin.Replay(ctx, by, relay.Replay{From: late}); return err },
				"Replay.From is in the year -1":             func() error { _, err := admin.Replay(ctx, by, relay.Replay{From: early}); return err },
				"Replay.To is in the year 10000":            func() error { _, err := admin.Replay(ctx, by, relay.Replay{From: now, To: late}); return err },
				"By.Why contains a NUL byte":                func() error { return admin.Drop(ctx, relay.By{Subscription: "default", Who: "me", Why: "a\x00"}) },
				"By.Subscription is not valid UTF-8":        func() error { return admin.Drop(ctx, relay.By{Subscription: "\xff", Who: "me", Why: "a test"}) },
				"Filter.AggregateID contains a NUL byte":    func() error { _, err := admin.List(ctx, relay.Filter{AggregateID: "a\x00"}); return err },
				"Filter.Subscription is not valid UTF-8":    func() error { _, err := admin.List(ctx, relay.Filter{Subscription: "\xff"}); return err },
				"Filter.Error is not valid UTF-8":           func() error { _, err := admin.List(ctx, relay.Filter{Error: "\xff"}); return err },
				"history: subscription contains a NUL byte": func() error { _, _, err := admin.History(ctx, "a\x00", 0, 1); return err },
				"aggregate: id contains a NUL byte":         func() error { _, _, _, err := admin.Aggregate(ctx, "batch", "\x00", 0, now); return err },
				"aggregate: type is not valid UTF-8":        func() error { _, _, _, err := admin.Aggregate(ctx, "\xff", "b", 0, now); return err },
				"aggregate: near is in the year 10000":      func() error { _, _, _, err := admin.Aggregate(ctx, "batch", "b", 0, late); return err },
				"olderThan is negative":                     func() error { _, err := admin.Purge(ctx, -1); return err },
			} {
				err := call()
				require.ErrorIs(t, err, outbox.ErrConfig, says)
				require.ErrorContains(t, err, says)
			}
			_, err := admin.Purge(ctx, math.MaxInt64)
			require.NoError(t, err, "nothing is older than that")
			_, _, _, err = admin.Aggregate(ctx, "batch", "b", 0, time.Time{})
			require.NoError(t, err)
		})
	}
}
