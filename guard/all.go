package guard

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/sqlplan"
)

// All composes guards that are kept together, such as All(Status{…}, Ledger{}): an aggregate is open while every one of them
// is open, final while every one is final in the same state, and anything else is an AnomalyError, upon which nothing is
// written. The record's provenance is that of the first guard that has one. Guards are claimed and settled in the order
// given. At least one guard is required, and none may be nil.
func All(guards ...Guard) Guard {
	var flat all
	for _, g := range guards {
		if nested, ok := g.(all); ok {
			flat = append(flat, nested...)
		} else {
			flat = append(flat, g)
		}
	}
	return flat
}

type all []Guard

var (
	_ Guard     = all(nil)
	_ Reader    = all(nil)
	_ Validator = all(nil)
	_ Checker   = all(nil)
)

// Validate validates each guard.
func (g all) Validate() error {
	if len(g) == 0 {
		return fmt.Errorf("%w: All has no guards", ErrConfig)
	}
	for i, guard := range g {
		if isnil.Any(guard) {
			return fmt.Errorf("%w: guard %d of All is nil", ErrConfig, i+1)
		}
		if v, ok := guard.(Validator); ok {
			if err := v.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Check checks each guard.
func (g all) Check(ctx context.Context, q endstate.Querier) error {
	var errs []error
	for _, guard := range g {
		if c, ok := guard.(Checker); ok {
			errs = append(errs, c.Check(ctx, q))
		}
	}
	return errors.Join(errs...)
}

func (g all) Claim(ctx context.Context, tx endstate.Tx, ref Ref) (Record, error) {
	return g.merged(ref, func(guard Guard) (Record, error) { return guard.Claim(ctx, tx, ref) })
}

func (g all) Read(ctx context.Context, q endstate.Querier, ref Ref) (Record, error) {
	return g.merged(ref, func(guard Guard) (Record, error) {
		r, ok := guard.(Reader)
		if !ok {
			return Record{}, fmt.Errorf("guard: %s can't be read outside of a transaction", name(guard))
		}
		return r.Read(ctx, q, ref)
	})
}

// Readable reports whether Read works: whether every guard is a Reader.
func (g all) Readable() bool {
	for _, guard := range g {
		if _, ok := guard.(Reader); !ok {
			return false
		}
	}
	return true
}

func (g all) merged(ref Ref, ask func(Guard) (Record, error)) (Record, error) {
	records := make([]Record, len(g))
	for i, guard := range g {
		rec, err := ask(guard)
		if err != nil {
			return Record{}, err
		}
		records[i] = rec
	}
	return g.merge(ref, records)
}

// merge makes one record of each guard's.
func (g all) merge(ref Ref, records []Record) (Record, error) {
	merged := records[0]
	for i, rec := range records[1:] {
		if rec.Final != merged.Final || rec.Final && rec.State != merged.State {
			e := &AnomalyError{Ref: ref}
			for j, rec := range records {
				e.Records = append(e.Records, GuardRecord{name(g[j]), rec})
			}
			return Record{}, e
		}
		if merged.Provenance == nil {
			merged.Provenance = records[i+1].Provenance
		}
		if merged.XID == "" {
			merged.XID = rec.XID
		}
		if merged.State == "" {
			merged.State = rec.State
		}
	}
	return merged, nil
}

func (g all) Settle(ctx context.Context, tx endstate.Tx, ref Ref, to Transition) (Record, error) {
	// No guard writes a state that a later one refuses.
	if err := g.CheckTarget(ref, to); err != nil {
		return Record{}, err
	}
	return g.merged(ref, func(guard Guard) (Record, error) { return guard.Settle(ctx, tx, ref, to) })
}

// Open puts key into c, and returns it as people know it; or it says why key can't be used.
func (g all) Open(c *sqlplan.Call, key Key) (shown string, err error) {
	if shown, err = key.open(c); err != nil {
		return "", err
	}
	for _, guard := range g {
		if s, ok := guard.(interface{ Fits(Key) error }); ok {
			if err := s.Fits(key); err != nil {
				return "", err
			}
		}
	}
	return shown, nil
}

// KeepDigests reports whether a guard keeps the outcome's digest, or may.
func (g all) KeepDigests() bool {
	for _, guard := range g {
		switch guard.(type) {
		case Status, *Status:
		default:
			return true
		}
	}
	return false
}

// CheckTarget asks each guard that can tell. Any state that isn't empty is terminal to a ledger.
func (g all) CheckTarget(ref Ref, to Transition) error {
	if to.State == "" {
		return errEmptyState
	}
	for _, guard := range g {
		if c, ok := guard.(interface{ CheckTarget(Ref, Transition) error }); ok {
			if err := c.CheckTarget(ref, to); err != nil {
				return err
			}
		}
	}
	return nil
}

func name(g Guard) string {
	if n, ok := g.(interface{ name() string }); ok {
		return n.name()
	}
	return fmt.Sprintf("%T", g)
}
