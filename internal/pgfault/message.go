package pgfault

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// Types of a client's messages.
const (
	bind      byte = 'B'
	closing   byte = 'C' // of a statement or a portal
	execute   byte = 'E'
	function  byte = 'F' // a function's call by number, which nobody uses
	flush     byte = 'H'
	parse     byte = 'P'
	query     byte = 'Q'
	syncing   byte = 'S'
	terminate byte = 'X'
)

// Types of the server's messages.
const (
	backendKeyData byte = 'K' // what a cancel request must say
	readyForQuery  byte = 'Z' // the end of an answer
)

// asks reports whether the server answers a client's message with a ReadyForQuery.
func asks(kind byte) bool { return kind == syncing || kind == query || kind == function }

// messages reads one direction of a connection.
type messages struct {
	*bufio.Reader
	raw []byte
}

func newMessages(r io.Reader) *messages { return &messages{Reader: bufio.NewReader(r)} }

var errMalformed = errors.New("pgfault: a message's length is impossible")

// next reads a message: its type, and all of its bytes, which are valid until the next call.
func (m *messages) next() (kind byte, raw []byte, err error) {
	const head = 5 // the type, and the length, which counts itself
	if err := m.read(0, head); err != nil {
		return 0, nil, err
	}
	if err := m.read(head, 1+int(binary.BigEndian.Uint32(m.raw[1:]))); err != nil {
		return 0, nil, err
	}
	return m.raw[0], m.raw, nil
}

// nextStartup reads a message as a client sends them at first, without a type: its code, and all of its bytes.
func (m *messages) nextStartup() (code uint32, raw []byte, err error) {
	const head = 8 // the length, which counts itself, and the code
	if err := m.read(0, head); err != nil {
		return 0, nil, err
	}
	if err := m.read(head, int(binary.BigEndian.Uint32(m.raw))); err != nil {
		return 0, nil, err
	}
	return binary.BigEndian.Uint32(m.raw[4:]), m.raw, nil
}

// read makes raw, of which it has the first bytes, have n of them.
func (m *messages) read(has, n int) error {
	if n < has {
		return errMalformed
	}
	m.raw = slices.Grow(m.raw[:has], n-has)[:n]
	_, err := io.ReadFull(m, m.raw[has:])
	return err
}
