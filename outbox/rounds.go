package outbox

import (
	"context"
	"errors"
	"time"
)

// name is an aggregate's.
type name struct{ kind, id string }

func (r *row) aggregate() name { return name{r.AggregateType, r.AggregateID} }

// rounds splits rows so that no round has two events of one aggregate, and each has those that come after the ones of the
// round before.
func rounds(rows []row) [][]int {
	var split [][]int
	seen := make(map[name]int, len(rows))
	for i := range rows {
		a := rows[i].aggregate()
		n := seen[a]
		seen[a] = n + 1
		if n == len(split) {
			split = append(split, make([]int, 0, (len(rows)-i)/(n+1)))
		}
		split[n] = append(split[n], i)
	}
	return split
}

// maxBatchTime is how long a batch goes on with further rounds.
const maxBatchTime = time.Second

// publishRows publishes a batch's events round by round, and says what became of them and how many were tried. After a
// failure the later events of its aggregate wait.
func (t *term) publishRows(rows []row, l lane) (o *outcome, tried int) {
	o = &outcome{published: make([]int64, 0, len(rows))}
	blocked := map[name]bool{}
	last := map[name]int64{} // in the lanes of failed events, what this batch was done with
	start := time.Now()
	for _, round := range rounds(rows) {
		if tried > 0 && (t.lease.lost() || time.Since(start) > maxBatchTime) {
			break // what was published is marked first; the rest is read again
		}
		events, indexes := make([]Event, 0, len(round)), make([]int, 0, len(round))
		for _, i := range round {
			a := rows[i].aggregate()
			if rows[i].behind {
				blocked[a] = true
			}
			if !blocked[a] {
				events, indexes = append(events, rows[i].Event), append(indexes, i)
			} else if l == ready || l == suspect { // those in the other lanes are held already
				o.held = append(o.held, rows[i].seq)
			}
		}
		if len(events) == 0 {
			continue
		}
		tried += len(events)
		errs := t.publish(events)
		for n, i := range indexes {
			r := &rows[i]
			if l == due || l == alone || l == suspectDue {
				last[r.aggregate()] = r.seq
			}
			if errs == nil || errs[n] == nil {
				o.published = append(o.published, r.seq)
				continue
			}
			if t.lease.lost() {
				blocked[r.aggregate()] = true // broken off: it isn't its fault
				continue
			}
			f := t.fail(r, errs[n])
			o.failed = append(o.failed, f)
			if !f.Dead && !t.cfg.Unordered {
				blocked[r.aggregate()] = true
			}
		}
	}
	for a, seq := range last {
		if !blocked[a] {
			o.promoted = append(o.promoted, aggregate{a.kind, a.id, seq})
		}
	}
	return o, tried
}

// fail says what becomes of an event that failed, and tells.
func (t *term) fail(r *row, err error) failure {
	ctx := context.WithoutCancel(t.lease.ctx)
	if errors.As(err, &errPutOff{}) {
		return failure{Seq: r.seq, Error: lastError(err), Delay: backoff(t.cfg.MinBackoff, t.cfg.MinBackoff, 1).Seconds()}
	}
	attempt := r.attempts + 1
	f := t.cfg.failed(r.seq, attempt, err)
	wait := time.Duration(f.Delay * float64(time.Second))
	attrs := []any{"event", r.ID, "type", r.Type, "aggregate", r.AggregateType + "/" + r.AggregateID, "attempt", attempt, "error", f.Error}
	if f.Dead {
		t.log.ErrorContext(ctx, "outbox relay: event is dead", attrs...)
	} else {
		t.log.WarnContext(ctx, "outbox relay: event failed", append(attrs, "wait", wait)...)
	}
	if failed := t.cfg.Trace.Failed; failed != nil {
		failed(ctx, r.Event, attempt, err, wait)
	}
	if dead := t.cfg.Trace.Dead; dead != nil && f.Dead {
		dead(ctx, r.Event, attempt, err)
	}
	return f
}
