package console

import (
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/audit"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// ErrConfig is returned for a Config whose fields don't make sense; the message names the field.
var ErrConfig = errors.New("console: invalid configuration")

// Config says what a Console shows, and to whom. Every field has a default, and so has a nil *Config: it shows the library's own
// tables, without payloads, to whoever reaches it, and changes nothing.
type Config struct {
	// Title is what the pages are called. Default "endstate".
	Title string
	// Outbox names the outbox's table. The zero Writer is endstate_outbox.
	Outbox outbox.Writer
	// Ledger names the ledger's table. Without one, pages leave out what it would tell.
	Ledger guard.Ledger
	// InboxSchema and InboxTable name an inbox in the same database. Default: inbox.DefaultTable. Without one, pages leave it out.
	InboxSchema, InboxTable string
	// Guards are asked, by the aggregates' types, which state an aggregate is in. Optional.
	Guards map[string]Guard
	// Audit is the table in which the audit looks for duplicates. Default: the outbox's; Timeout is one minute.
	Audit audit.Config
	// Dialect is "postgres" or "sqlite", for NewSQL. Empty: told by the driver.
	Dialect string

	// Actions lets people retry and discard dead letters, replay and drop subscriptions. It needs User.
	Actions bool
	// ShowPayloads lets people see payloads, one at a time, when they ask for it.
	ShowPayloads bool
	// User returns the name of who sends a request, as the site's authentication knows it. It is recorded with what they do. An
	// empty name may do nothing.
	User func(*http.Request) string
	// Authorize returns an error for what a user may not see or do. The error goes to the log, not to the user. It is called for
	// each subscription that a page shows, and must be fast. Default: all may see all.
	Authorize func(*http.Request, Access) error
	// Key makes the forms' tokens, so that those of one process are good for another one. At least 32 bytes. Default: random.
	Key []byte

	// Watch has what only the process knows, if the console is part of a service that finalizes.
	Watch *Watch
	// Every is how often the overview's figures are taken at most. Default 10 s.
	Every time.Duration
	// Logger gets a line at info level for each action, at warn level for what was refused, and at error level for what failed.
	// Default slog.Default().
	Logger *slog.Logger
}

// Guard reads the state of aggregates of one type.
type Guard struct {
	guard.Reader
	// Key makes a key of what people write. Default: a UUID or an integer if it looks like one, else text.
	Key func(string) (guard.Key, error)
}

// Access is what somebody wants to see or do.
type Access struct {
	User         string
	Action       Action
	Subscription string // empty: what belongs to none, such as an aggregate's state
}

// Action is a kind of Access.
type Action string

// The actions.
const (
	View    Action = "view"
	Payload Action = "payload" // see an event's payload
	Audit   Action = "audit"   // have the duplicates counted, which reads the whole table
	Retry   Action = "retry"
	Discard Action = "discard"
	Replay  Action = "replay"
	Drop    Action = "drop"
)

func (c *Config) withDefaults() (Config, error) {
	if c == nil {
		c = &Config{}
	}
	cfg := *c
	fail := func(field, why string) (Config, error) {
		return cfg, fmt.Errorf("%w: Config.%s %s", ErrConfig, field, why)
	}
	if cfg.Title == "" {
		cfg.Title = "endstate"
	}
	if cfg.InboxTable == "" {
		cfg.InboxTable = inbox.DefaultTable
	}
	if a := &cfg.Audit; a.Table == "" {
		a.Schema, a.Table, a.Aggregate, a.Type, a.NoPublished = cfg.Outbox.Schema, cfg.Outbox.Name(), []string{"aggregate_type", "aggregate_id"}, "type", true
	}
	if cfg.Ledger.Table == "" {
		cfg.Ledger.Table = guard.DefaultLedger
	}
	if cfg.Audit.Timeout == 0 {
		cfg.Audit.Timeout = time.Minute
	}
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Every < 0 {
		return fail("Every", "is negative")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Actions && cfg.User == nil {
		return fail("User", "is nil; Actions needs it, since who did what is recorded")
	}
	if cfg.User == nil {
		cfg.User = func(*http.Request) string { return "" }
	}
	if cfg.Authorize == nil {
		cfg.Authorize = func(*http.Request, Access) error { return nil }
	}
	if cfg.Key == nil {
		cfg.Key = make([]byte, 32)
		_, _ = rand.Read(cfg.Key) // never fails
	}
	if len(cfg.Key) < 32 {
		return fail("Key", fmt.Sprintf("is %d bytes long; 32 are the least", len(cfg.Key)))
	}
	if err := cfg.Ledger.Validate(); err != nil {
		return cfg, fmt.Errorf("%w: Config.%w", ErrConfig, err)
	}
	for field, name := range map[string]string{"InboxTable": cfg.InboxTable, "InboxSchema": cfg.InboxSchema} {
		if err := sqltx.CheckIdent(name); err != nil && name != "" {
			return fail(field, err.Error())
		}
	}
	for name, g := range cfg.Guards {
		if g.Reader == nil {
			return fail("Guards", fmt.Sprintf("[%q] has no Reader", name))
		}
	}
	return cfg, nil
}

// New returns a Console on a pgx pool. It sends nothing.
func New(pool *pgxpool.Pool, cfg *Config) (*Console, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	admin, err := relay.NewAdmin(pool, &relay.Config{Outbox: c.Outbox})
	return newConsole(c, admin, database{pool: pool, dialect: sqltx.Postgres}, err)
}

// NewSQL is New on database/sql, for PostgreSQL and SQLite.
func NewSQL(db *sql.DB, cfg *Config) (*Console, error) {
	c, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if db == nil {
		return nil, fmt.Errorf("%w: db is nil", ErrConfig)
	}
	dialect, err := sqltx.Choose(db, c.Dialect)
	if err != nil {
		return nil, fmt.Errorf("%w: Config.%w", ErrConfig, err)
	}
	admin, err := relay.NewAdminSQL(db, &relay.Config{Outbox: c.Outbox, Dialect: string(dialect)})
	return newConsole(c, admin, database{sql: db, dialect: dialect}, err)
}

func newConsole(cfg Config, admin *relay.Admin, db database, err error) (*Console, error) {
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	c := &Console{cfg: cfg, admin: admin, db: db, pages: map[string]*template.Template{}}
	if err := c.parse(); err != nil {
		return nil, err
	}
	c.handler = c.routes()
	return c, nil
}
