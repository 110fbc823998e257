package finalize

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// A table that is named without a schema is whichever one the connection's search_path says. Where that depends on the caller,
// a key alone doesn't name an aggregate, and what one tenant's call learnt must not answer another's: that is what
// Config.Tenant is for. Without it, connections that differ are refused:
//
//   - A pgx pool shows whether it prepares connections for callers: New refuses one that does.
//   - database/sql shows nothing, so connections are asked what the names mean before they are used: the first few each time,
//     then one a second.

// unqualified are the tables of the guard and the outbox that are named without a schema.
func (c *Config) unqualified() []string {
	var names []string
	if u, ok := c.Guard.(guard.Unqualified); ok {
		names = u.Unqualified()
	}
	if c.Outbox.Schema == "" {
		names = append(names, c.Outbox.Name())
	}
	return names
}

// checkHooks refuses a pool that may show each caller other tables, if nothing tells callers apart.
func (c *Config) checkHooks(pool *pgxpool.Config) error {
	hook := ""
	switch {
	case pool.PrepareConn != nil:
		hook = "PrepareConn"
	case pool.BeforeAcquire != nil: //lint:ignore SA1019 it is deprecated, and still called
		hook = "BeforeAcquire"
	}
	names := c.unqualified()
	if hook == "" || c.Tenant != nil || len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: Tenant is nil, though by the pool's %s each caller may see other tables, and these are named without a schema: %s. Set Tenant, or the schemas (Status.Schema, Ledger.Schema, Outbox.Schema) if there is one of each for all",
		ErrConfig, hook, strings.Join(names, ", "))
}

const (
	firstLooks    = 64
	lookEvery     = time.Second
	refuseForThis = time.Minute
)

// searchPath watches what names without a schema mean on the connections of a *sql.DB.
type searchPath struct {
	names   []string
	looks   atomic.Int32
	next    atomic.Int64 // when to look again, as Finalizer.now
	refused atomic.Pointer[refusal]
	mu      sync.Mutex
	seen    string
}

// refusal is why calls are refused, for a while: then the connections are looked at anew.
type refusal struct {
	err   error
	until time.Duration
}

// watch returns what watches the connections of a database, nil if they can't differ or callers are told apart.
func (c *Config) watch(dialect sqltx.Dialect) *searchPath {
	names := c.unqualified()
	if dialect != sqltx.Postgres || c.Tenant != nil || len(names) == 0 {
		return nil
	}
	return &searchPath{names: names}
}

// refusal returns why a call is refused.
func (p *searchPath) refusal(now time.Duration) error {
	r := p.refused.Load()
	if r == nil {
		return nil
	}
	if now < r.until {
		return r.err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refused.CompareAndSwap(r, nil) {
		p.seen = ""
		p.looks.Store(0)
	}
	return nil
}

// look looks, when it is time to, at what the names mean on a connection, and refuses it if they mean something else there than
// on those before it.
func (p *searchPath) look(ctx context.Context, q endstate.Querier, now time.Duration) error {
	if p == nil {
		return nil
	}
	if p.looks.Load() >= firstLooks {
		if next := p.next.Load(); int64(now) < next || !p.next.CompareAndSwap(next, int64(now+lookEvery)) {
			return nil
		}
	}
	p.looks.Add(1)
	parts, args := make([]string, len(p.names)), make([]any, len(p.names))
	for i, name := range p.names {
		parts[i] = fmt.Sprintf("coalesce((SELECT relnamespace::text FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($%d::text)), '-')", i+1)
		args[i] = sqltx.Quote("", name)
	}
	var schemas string
	if err := q.QueryRow(ctx, "SELECT "+strings.Join(parts, " || ' ' || "), args...).Scan(&schemas); err != nil {
		return fmt.Errorf("look at the search_path: %w", err)
	}
	if strings.Contains(schemas, "-") {
		return nil // a table is missing, so nothing gets mixed up
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen == "" {
		p.seen = schemas
	}
	if p.seen == schemas {
		return nil
	}
	r := &refusal{fmt.Errorf("%w: Config.Tenant is nil, and connections of the pool differ in the schemas of the tables %s, which are named without one; set Tenant, or the schemas if there is one of each for all",
		ErrTenant, strings.Join(p.names, ", ")), now + refuseForThis}
	p.refused.Store(r)
	return r.err
}
