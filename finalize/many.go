package finalize

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/endstate-go/endstate/guard"
)

// Item is one aggregate of a SettleMany, and what it shall end as.
type Item struct {
	Key     guard.Key
	Outcome Outcome
}

// Result is what became of an Item: what Settle would have returned for it.
type Result struct {
	Receipt Receipt
	Err     error
}

// SettleMany is Settle for many aggregates, such as those that a sweep found: any number of them, with a result for each in
// their order. The error is nil if no item has one; else it tells how many do, and wraps the first.
//
// It is not one transaction: each item is settled or fails by itself, as if it were alone. With New and the guards of this
// library (states as Names or Prefixes) up to a thousand are settled in one statement; on SQLite up to a hundred in one
// transaction. What is held by another transaction for longer than an instant, or wrong, is left out there and settled alone, a few
// at a time. So are all, where neither is possible: with guards of your own, and on PostgreSQL through database/sql. Keys are gone through in
// order, so that sweeps on several hosts don't block one another; of two items with one key, the first goes first.
//
// When ctx ends, the rest of the items fail with its error.
func (f *Finalizer[Tx]) SettleMany(ctx context.Context, trigger Trigger, items []Item) ([]Result, error) {
	m := &many[Tx]{Finalizer: f, forgets: f.cache.forgets.Load(), results: make([]Result, len(items))}
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Or(strings.Compare(items[i].Key.Encode(), items[j].Key.Encode()), i-j)
	})
	w := f.cfg.Outbox
	if headers := w.Headers; headers != nil { // asked once, for all items
		added := sync.OnceValue(func() map[string]string { return headers(ctx) })
		w.Headers = func(context.Context) map[string]string { return added() }
	}
	all, jobs := make([]job, len(items)), make([]*job, 0, len(items))
	var repeats []int
	for n, i := range order {
		item, j := &items[i], &all[n]
		if n > 0 && item.Key == items[order[n-1]].Key {
			repeats = append(repeats, i)
			continue
		}
		a, r, err := f.ready(ctx, &w, &j.attempt, item.Key, trigger, item.Outcome)
		if a == nil {
			m.results[i] = Result{r, err}
			continue
		}
		j.i, j.ctx = i, f.begin(ctx, a)
		jobs = append(jobs, j)
	}
	m.alone(m.inBulk(ctx, jobs))
	for _, i := range repeats {
		r, err := f.Settle(ctx, items[i].Key, trigger, items[i].Outcome)
		m.results[i] = Result{r, err}
	}
	return m.results, m.err(items)
}

// many is one SettleMany.
type many[Tx any] struct {
	*Finalizer[Tx]
	forgets uint64
	results []Result
}

// job is an item that must be settled.
type job struct {
	attempt
	i   int
	ctx context.Context // the item's own, of Trace.Began
}

// bulkSettler is a database that can settle many at once.
type bulkSettler interface {
	// bulkSize is how many aggregates with keys like a's one settleBulk takes; 0 if it can't.
	bulkSize(a *attempt) int
	// settleBulk settles attempts whose keys have one shape and are all different, in the order of their keys. When it
	// returns an error, none of them was settled; except for errUnanswered, after which each may have been.
	settleBulk(ctx context.Context, attempts []*attempt) ([]settled, error)
}

// settled is what settleBulk reports of one attempt.
type settled struct {
	rec  guard.Record
	won  bool
	done bool // else it must be settled alone
}

// bulkBytes bounds the payloads of one bulk.
const bulkBytes = 4 << 20

// inBulk settles what can be settled together, and returns the rest.
func (m *many[Tx]) inBulk(ctx context.Context, jobs []*job) (rest []*job) {
	db, ok := m.db.(bulkSettler)
	if !ok {
		return jobs
	}
	byShape := map[string][]*job{}
	for _, j := range jobs {
		byShape[j.Shape] = append(byShape[j.Shape], j)
	}
	for _, jobs := range byShape {
		size := db.bulkSize(&jobs[0].attempt)
		if size == 0 {
			rest = append(rest, jobs...)
			continue
		}
		jobs = slices.DeleteFunc(jobs, func(j *job) bool {
			large := j.size > pieceBytes
			if large {
				rest = append(rest, j)
			}
			return large
		})
		for len(jobs) > 0 {
			n, bytes := 0, 0
			for n < min(size, len(jobs)) && (n == 0 || bytes+jobs[n].size <= bulkBytes) {
				bytes += jobs[n].size
				n++
			}
			rest = append(rest, m.bulk(ctx, db, jobs[:n])...)
			jobs = jobs[n:]
		}
	}
	return rest
}

// fewJobs are too few to be parted any more when something is wrong with one of them.
const fewJobs = 8

// bulk settles jobs together, and returns those that must go alone. When the database refuses them, it parts them, until what
// is wrong is among few.
func (m *many[Tx]) bulk(ctx context.Context, db bulkSettler, jobs []*job) (rest []*job) {
	if ctx.Err() != nil {
		return jobs
	}
	attempts := make([]*attempt, len(jobs))
	for i, j := range jobs {
		j.number = 1
		attempts[i] = &j.attempt
	}
	results, err := db.settleBulk(ctx, attempts)
	switch {
	case err == nil:
		for i, j := range jobs {
			if !results[i].done {
				rest = append(rest, j)
				continue
			}
			r := receiptOf(results[i].rec, results[i].won)
			m.cache.put(j.ref, r, m.now(), m.forgets)
			m.end(j, r, nil)
		}
		return rest
	case errors.Is(err, errUnanswered):
		for _, j := range jobs {
			j.lost = err
		}
		return jobs
	case errors.Is(err, errApart):
		return jobs
	case errors.Is(err, ErrBusy), errors.Is(err, errNoConnection):
		// It is not about one of them. No SQLSTATE says that: row security refuses one row as it refuses all.
		for _, j := range jobs {
			m.end(j, Receipt{}, err)
		}
		return nil
	case len(jobs) <= fewJobs:
		return jobs
	}
	half := len(jobs) / 2
	return append(m.bulk(ctx, db, jobs[:half]), m.bulk(ctx, db, jobs[half:])...)
}

// end notes what became of a job, and reports it.
func (m *many[Tx]) end(j *job, r Receipt, err error) {
	r.Differs = err == nil && !r.Won && m.differs(&j.attempt, r)
	r, err = m.Finalizer.end(j.ctx, &j.attempt, r, err)
	m.results[j.i] = Result{r, err}
}

// aloneAtOnce is how many jobs are settled at a time alone. Each takes a connection, and may have to wait for who holds its
// aggregate.
const aloneAtOnce = 4

// alone settles each job by itself. A panic goes on in the caller's goroutine.
func (m *many[Tx]) alone(jobs []*job) {
	var group sync.WaitGroup
	places, panics := make(chan struct{}, aloneAtOnce), make(chan any, aloneAtOnce)
	for _, j := range jobs {
		places <- struct{}{}
		if len(panics) > 0 {
			break
		}
		group.Go(func() {
			returned := false
			defer func() {
				if !returned {
					p := recover()
					if p == nil {
						p = errGoexit
					}
					panics <- p
				}
				<-places
			}()
			m.one(j)
			returned = true
		})
	}
	group.Wait()
	if len(panics) == 0 {
		return
	}
	if p := <-panics; p != errGoexit {
		panic(p)
	}
	runtime.Goexit()
}

// errGoexit stands for the end of a goroutine by runtime.Goexit, such as a test's Fatal in a guard.
var errGoexit = errors.New("runtime.Goexit was called")

func (m *many[Tx]) one(j *job) {
	if j.lost == nil {
		r, err := m.run(j.ctx, &j.attempt, nil)
		m.results[j.i] = Result{r, err}
		return
	}
	// Not in turn: another call of this process that found the aggregate final would answer that this one lost, though it may
	// have found what this one committed.
	r, err := m.retry(j.ctx, &j.attempt, nil)
	if err == nil {
		m.cache.put(j.ref, r, m.now(), m.forgets)
	}
	m.end(j, r, err)
}

// err sums the results up.
func (m *many[Tx]) err(items []Item) error {
	failed, first := 0, 0
	for i, r := range slices.Backward(m.results) {
		if r.Err != nil {
			failed, first = failed+1, i
		}
	}
	if failed == 0 {
		return nil
	}
	return fmt.Errorf("finalize: %d of %d items failed; the first is %v: %w", failed, len(items), items[first].Key, m.results[first].Err)
}
