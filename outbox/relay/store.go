package relay

import (
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// tables are the names of an outbox's tables, quoted.
type tables struct {
	events, subscriptions, cursors, parked, relays, samples, incarnation, audit string
}

func tablesOf(w outbox.Writer) tables {
	of := func(suffix string) string { return sqltx.Quote(w.Schema, w.Name()+suffix) }
	return tables{of(""), of("_subscriptions"), of("_cursors"), of("_parked"), of("_relays"), of("_samples"), of("_incarnation"), of("_audit")}
}

// store is what a relay, or an operator, asks of the database. What reads differently in the two dialects is in postgres.go and sqlite.go.
type store struct {
	database
	tables
	cfg                          *Config
	matches                      string // the condition that an event e is of the subscription's types
	reading, due, ending, moving string // statements
}

// newStore checks cfg, which may be nil.
func newStore(db database, cfg *Config) (*store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if db, err = db.open(cfg.Dialect); err != nil {
		return nil, err
	}
	s := &store{database: db, tables: tablesOf(cfg.Outbox), cfg: cfg}
	if s.matches = types(cfg.Types).condition(db.dialect, "e.type"); db.sqlite() {
		s.reading, s.due = s.sqliteReading(), s.sqliteDue()
	} else {
		s.reading, s.due = s.postgresReading(), s.postgresDue()
	}
	s.ending, s.moving = s.endingStatement(), s.movingStatement()
	return s, nil
}

// in is the store inside a transaction, which somebody else ends.
func (s *store) in(tx endstate.Tx) *store {
	inside := *s
	inside.database = s.database.in(tx)
	return &inside
}

// owned is the condition that a cursor is the owner's. $1 is the subscription, and $2 the owner.
func (s *store) owned() string {
	return "subscription = CAST($1 AS text) AND owner = " + s.uuid("CAST($2 AS text)")
}

// mine is the condition that a row is of a partition that the owner has.
func (s *store) mine(alias string) string {
	return fmt.Sprintf("%[1]ssubscription = CAST($1 AS text) AND %[1]spartition IN (SELECT partition FROM %[2]s WHERE %[3]s)", alias, s.cursors, s.owned())
}
