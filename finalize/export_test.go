package finalize

import "github.com/endstate-go/endstate/guard"

// Queued is how many calls wait for another one's turn to end.
func (f *Finalizer[Tx]) Queued(key guard.Key) int {
	ref := guard.Ref{Aggregate: f.cfg.Aggregate, Key: key}
	f.turns.mu.Lock()
	defer f.turns.mu.Unlock()
	return len(f.turns.keys[idOf(ref)])
}

// LookAgain has the next call look at the catalog, as if what is known were old.
func (f *Finalizer[Tx]) LookAgain() {
	var w *watcher
	switch d := any(f.db).(type) {
	case *pgxDB:
		w = &d.watcher
	case ormDB[Tx]:
		w = &d.watcher
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looked = w.looked.Add(-2 * watchEvery)
}
