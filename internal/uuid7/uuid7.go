// Package uuid7 makes UUIDs of version 7, a few at a time: those of google/uuid take an allocation and a look for randomness each.
package uuid7

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Source makes UUIDs that grow. The zero Source is ready, and safe for concurrent use.
type Source struct {
	mu     sync.Mutex
	random [128]byte
	left   []byte // of random, unused
	last   uint64 // a time
}

// New returns a UUID whose time is, in RFC 9562's third way, milliseconds and then 4096ths of one. The rest, 62 bits, is random.
func (s *Source) New() (id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) == 0 {
		_, _ = rand.Read(s.random[:]) // which never fails
		s.left = s.random[:]
	}
	copy(id[8:], s.left)
	s.left = s.left[8:]
	now := uint64(time.Now().UnixNano())
	s.last = max(s.last+1, now/1e6<<12|now%1e6<<12/1e6)
	binary.BigEndian.PutUint64(id[:], s.last>>12<<16|7<<12|s.last&0xfff)
	id[8] = id[8]&0x3f | 0x80
	return id
}
