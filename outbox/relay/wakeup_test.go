package relay_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox/relay"
)

// A relay that polls hardly ever is woken in the process, and by a Notifier from another one.
func TestWakeUps(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sql", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		slow, owns := quick(), make(chan struct{}, 1)
		slow.PollInterval, slow.LeaseTTL = time.Hour, time.Hour
		relay.SetFirstPoll(slow, time.Hour)
		slow.Trace = &relay.Trace{Owns: func(context.Context, int) { owns <- struct{}{} }}
		if !db.SQLite {
			slow.ListenURL = db.URL
		}
		r := &recorder{}
		rel := db.relay(t, r, slow)
		run(t, rel)
		wakers := map[string]func(){"Relay": rel.Wake}
		if !db.SQLite {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			notifier := db.notifier(t)
			go func() { done <- notifier.Run(ctx) }()
			defer func() { cancel(); require.NoError(t, <-done) }()
			wakers["Notifier"] = notifier.Wake
		}
		<-owns
		if !db.SQLite {
			eventually(t, "it listens", func() bool {
				return outboxdbtest.One[int](t, db, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'") > 0
			})
		}
		for name, wake := range wakers {
			for range 5 {
				before := len(r.published())
				db.Put(t, event("completed", ""))
				for range 100 {
					wake() // once for many
				}
				eventually(t, name, func() bool { return len(r.published()) == before+1 })
			}
		}
	})
}

func (db *database) notifier(t *testing.T) (n *relay.Notifier) {
	t.Helper()
	var err error
	if db.Pool != nil {
		n, err = relay.NewNotifier(db.Pool, nil)
	} else {
		n, err = relay.NewNotifierSQL(db.SQL, nil)
	}
	require.NoError(t, err)
	return n
}
