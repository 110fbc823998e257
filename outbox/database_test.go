package outbox_test

import (
	"context"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/internal/sqltx"
)

type database = outboxdbtest.Database

var (
	databases   = outboxdbtest.Names
	each        = outboxdbtest.Each
	newDatabase = outboxdbtest.New
	event       = outboxdbtest.Event
)

// retried is Try, again for as long as SQLite is busy, which it is only ever for a limited time's wait.
func retried(db *database, f func(ctx context.Context, tx endstate.Tx) error) error {
	for {
		err := db.Try(f)
		if !db.SQLite || !sqltx.Conflicted(err) {
			return err
		}
	}
}
