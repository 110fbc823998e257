package sqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
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
	if _, unreachable := errors.AsType[net.Error](err); unreachable || Conflicted(err) {
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
	switch state := State(err); {
	case strings.HasPrefix(state, "08"), strings.HasPrefix(state, "53"), strings.HasPrefix(state, "57"): // connections, resources, an operator
		return true
	}
	return false
}
