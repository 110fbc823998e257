package sqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrRowsOpen is returned by Savepoint where another statement's rows are open on the connection.
var ErrRowsOpen = errors.New("the connection is busy with rows that were left open: close them first")

// Savepoint sets a savepoint, before which no statement's answer may be outstanding. Most drivers refuse to send anything while rows
// are open; bun's pgdriver sends it, and takes the rest of the rows for its answer, so that each statement gets the one before its own.
func Savepoint(ctx context.Context, tx interface {
	Exec(ctx context.Context, query string, args ...any) (pgconn.CommandTag, error)
}, name string) error {
	tag, err := tx.Exec(ctx, "SAVEPOINT "+name)
	switch {
	case Of(tx) == SQLite: // where rows and statements don't meet on a wire, and what was affected is that of an earlier statement
		return err
	case err == nil && tag.RowsAffected() > 0: // a savepoint has none
		return ErrRowsOpen
	case err != nil && State(err) == "" && !away(err) && !errors.Is(err, sql.ErrTxDone): // neither the server's word nor the connection's
		return fmt.Errorf("%w: %w", ErrRowsOpen, err)
	}
	return err
}
