package finalize

import "github.com/endstate-go/endstate/guard"

// Queued is how many calls wait for another one's turn to end.
func (f *Finalizer[Tx]) Queued(key guard.Key) int {
	ref := guard.Ref{Aggregate: f.cfg.Aggregate, Key: key}
	f.turns.mu.Lock()
	defer f.turns.mu.Unlock()
	return len(f.turns.keys[ref])
}
