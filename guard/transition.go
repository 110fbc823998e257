package guard

import "fmt"

// TransitionError says what the row of an aggregate that was to be moved says instead, within the transaction. errors.Is finds
// ErrRewritten in it if the row was updated, ErrRefused if it wasn't though the aggregate is open, else ErrNotOpen.
type TransitionError struct {
	Ref   Ref
	Want  string // the state that was asked for
	Moved bool   // the row was updated
	Found bool   // there is a row, or for a ledger there needn't be one
	Final bool   // it is final
	State string // what it says; empty for NULL too
}

func (e *TransitionError) Error() string {
	switch {
	case e.Moved:
		return fmt.Sprintf("%v: %v was moved to %q and says %q, so that all was rolled back; look at the triggers, rules and generated columns of its table, or, if that is a view, whether it shows such rows",
			ErrRewritten, e.Ref, e.Want, e.State)
	case !e.Found:
		return fmt.Sprintf("%v: %v has lost its row since it was claimed, in this transaction: the callback deleted it or changed its key", ErrNotOpen, e.Ref)
	case e.Final:
		return fmt.Sprintf("%v: %v says %q already in this transaction: the callback set it, or finalized the aggregate itself; leave that to the outcome that it returns",
			ErrNotOpen, e.Ref, e.State)
	}
	return fmt.Sprintf("%v: %v is open (%q) and its row took no update; look for a BEFORE trigger that returns NULL, a rule, or a row security policy for UPDATE on its table",
		ErrRefused, e.Ref, e.State)
}

// Is makes errors.Is hold for the sentinel that e is about.
func (e *TransitionError) Is(target error) bool {
	switch {
	case e.Moved:
		return target == ErrRewritten
	case e.Found && !e.Final:
		return target == ErrRefused
	}
	return target == ErrNotOpen
}
