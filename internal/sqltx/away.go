package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Lacking wraps what a check found to be lacking in its sentinel, unless the database couldn't be asked: that says nothing of
// what it lacks. It returns nil for nil.
func Lacking(sentinel, err error) error {
	if err == nil || away(err) {
		return err
	}
	return fmt.Errorf("%w: %w", sentinel, err)
}

// away reports whether err is of a database that can't be asked for now, and says nothing of what it lacks.
func away(err error) bool {
	if _, unreachable := errors.AsType[net.Error](err); unreachable || Conflicted(err) || pgconn.SafeToRetry(err) { // such as pgx's "conn closed"
		return true
	}
	for _, broken := range []error{context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, driver.ErrBadConn, sql.ErrConnDone} {
		if errors.Is(err, broken) {
			return true
		}
	}
	if _, refused := errors.AsType[*pgconn.ConnectError](err); refused {
		return true
	}
	state := State(err)
	// Connections, transactions that broke off, resources, locks, an operator, the system.
	return slices.ContainsFunc([]string{"08", "25", "40", "53", "55", "57", "58"}, func(class string) bool { return strings.HasPrefix(state, class) })
}
