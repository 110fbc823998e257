package finalize

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
)

// Trigger names what called: "threshold", "sweep", "webhook", an operator. It is recorded by a ledger. At most 200 bytes.
type Trigger string

// Outcome is what a finalization writes: the aggregate's terminal state and the events that announce it. All of it is
// written in one transaction, or none.
type Outcome struct {
	// State is the terminal state. The guard must know it as one.
	State string
	// Events go into the outbox. AggregateType and AggregateID default to the aggregate's type and key, DedupKey to the
	// aggregate, its key and the event's type; two events of one type therefore need dedup keys of their own.
	Events []outbox.Event
}

// Receipt tells who finalized an aggregate. Every caller of one key gets the same, but for Won and Differs.
type Receipt struct {
	// Won reports whether this call finalized it. After DoTx it holds if the caller's transaction commits.
	Won bool `json:"won"`
	// State is the terminal state that the aggregate is in.
	State string `json:"state"`
	// Provenance reports whether the fields below are known: with a guard that has a ledger they are, with guard.Status
	// alone they are not, and stay zero.
	Provenance bool `json:"provenance"`
	// Trigger is the winner's trigger.
	Trigger Trigger `json:"trigger,omitzero"`
	// At is when it was finalized, by the database's clock.
	At time.Time `json:"at,omitzero"`
	// Token identifies the winning call.
	Token uuid.UUID `json:"token,omitzero"`
	// Digest is the SHA-256 of the outcome: state and events, without the events' ids and times.
	Digest Digest `json:"digest,omitzero"`
	// Differs tells a losing Settle that it wanted another state than the winner's or, if Config.CompareEvents is set and
	// there is provenance, other events. A losing Do never ran its callback and has nothing to compare.
	Differs bool `json:"differs,omitzero"`
}

// Digest is a SHA-256. As text, in JSON too, it is in hexadecimal.
type Digest [sha256.Size]byte

// String returns d in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("finalize: a digest has %d hexadecimal digits, not %d", hex.EncodedLen(len(d)), len(text))
	}
	if _, err := hex.Decode(d[:], text); err != nil {
		return fmt.Errorf("finalize: digest: %w", err)
	}
	return nil
}

// differs reports whether the winner's receipt is not what a wanted.
func (f *core) differs(a *attempt, r Receipt) bool {
	if r.State != a.State {
		return true
	}
	// A ledger's entry may have no digest, if another than this library wrote it.
	return f.cfg.CompareEvents && r.Digest != Digest{} && !bytes.Equal(r.Digest[:], a.Digest)
}
