package finalize

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqlplan"
)

// watchEvery is how old what the catalog said of the tables' triggers and rules may be.
const watchEvery = time.Minute

// watcher knows what becomes of the rows that a finalization writes beyond what its statements return: see sqlplan.Watch.
// PostgreSQL only.
type watcher struct {
	every  time.Duration
	mu     sync.Mutex
	looked time.Time // zero: never
	seen   sqlplan.Watch
}

// known returns what the catalog said lately.
func (w *watcher) known() (seen sqlplan.Watch, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.looked.IsZero():
		return seen, false
	case time.Since(w.looked) >= w.every:
		w.looked = time.Now() // the others go on with what is known
		return seen, false
	}
	return w.seen, true
}

// look asks the catalog. The error is a database's.
func (w *watcher) look(ctx context.Context, q interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, tables []sqlplan.Table) (sqlplan.Watch, error) {
	seen, err := sqlplan.Look(ctx, q, tables)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.looked = time.Time{}
		return seen, fmt.Errorf("look for triggers and rules: %w", err)
	}
	w.looked, w.seen = time.Now(), seen
	return seen, nil
}
