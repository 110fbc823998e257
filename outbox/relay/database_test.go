package relay_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/outboxdbtest"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// database is one that relays work on.
type database struct{ *outboxdbtest.Database }

var (
	databases = outboxdbtest.Names
	event     = outboxdbtest.Event
)

// each runs a test on new databases, each with an outbox unless writer is nil.
func each(t *testing.T, names []string, writer *outbox.Writer, run func(t *testing.T, db *database)) {
	t.Helper()
	outboxdbtest.Each(t, names, writer, func(t *testing.T, db *outboxdbtest.Database) { run(t, &database{db}) })
}

func newDatabase(t testing.TB, name string) *database {
	t.Helper()
	return &database{outboxdbtest.New(t, name)}
}

// on is the PostgreSQL database at url, through pgx.
func on(t testing.TB, url string, configure ...func(*pgxpool.Config)) *database {
	t.Helper()
	return &database{outboxdbtest.On(t, url, configure...)}
}

// through is the PostgreSQL database at url, through pgx or through database/sql ("sql").
func through(t testing.TB, kind, url string) *database {
	t.Helper()
	if kind == "sql" {
		return &database{outboxdbtest.Over(dbtest.SQLOn(t, url), url)}
	}
	return on(t, url)
}

// admin returns an Admin of the default subscription.
func (db *database) admin(t testing.TB) (admin *relay.Admin) {
	t.Helper()
	var err error
	if db.Pool != nil {
		admin, err = relay.NewAdmin(db.Pool, nil)
	} else {
		admin, err = relay.NewAdminSQL(db.SQL, nil)
	}
	require.NoError(t, err)
	return admin
}
