package natsjs

import (
	"fmt"
	"math"
	"strings"

	"github.com/nats-io/nats.go"
)

// checkConn refuses a connection that may close for good during an outage: every later event would fail until somebody
// restarts the process.
func checkConn(conn *nats.Conn) error {
	if conn == nil {
		return fmt.Errorf("%w: the connection is nil", ErrConfig)
	}
	switch {
	case !conn.Opts.AllowReconnect:
		return fmt.Errorf("%w: the connection doesn't reconnect (nats.NoReconnect): connect with nats.MaxReconnects(-1) alone", ErrConfig)
	case conn.Opts.MaxReconnect >= 0:
		return fmt.Errorf("%w: the connection gives up after %d attempts to reconnect: connect with nats.MaxReconnects(-1)", ErrConfig, conn.Opts.MaxReconnect)
	}
	return nil
}

// defaultControlLine is a server's max_control_line unless it is set: the longest line of its protocol, in bytes. A server that
// gets a longer one closes the connection, and the client then takes it for closed for good.
const defaultControlLine = 4096

// maxSubject is the longest subject that fits into a line, which also has the reply's subject and two lengths.
func maxSubject(conn *nats.Conn, line int) int { return line - len(conn.NewInbox()) - 64 }

// maxHeader is the longest header that JetStream takes, in bytes.
const maxHeader = math.MaxUint16

// headerSize is how long a header is on the wire.
func headerSize(header nats.Header) int {
	size := len("NATS/1.0\r\n\r\n")
	for name, values := range header {
		for _, value := range values {
			size += len(name) + len(": ") + len(value) + len("\r\n")
		}
	}
	return size
}

// maxError is how much of an error's text is kept, in bytes.
const maxError = 1000

// oneLine is a text that a header can hold.
func oneLine(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxError)], "")
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, text)
}
