package outbox

import "time"

// position is how far a relay has come with a backlog. What it published lately lies before that, as dead rows that a reading
// from the start passes over each time: all of them for as long as an old snapshot keeps them from being removed. So while
// there is more than one batch, readings go on from where nothing more can appear that an aggregate's order asks for.
//
// An event of a guarded aggregate has a transaction id before it has its seq. So when every transaction has ended that had an
// id some time after a seq was seen, no such event with a lower one can still be committed. Other events that appear behind the
// position, and dead letters that are retried, are found when reading begins at the start again, about once a second.
type position struct {
	since time.Time     // when a reading last began at the start; zero: the next one does
	lasts time.Duration // how long readings go on from there

	begin   int64 // readings begin after this seq
	reach   int64 // the highest that was seen
	passing int   // how many events were read since begin went on: a reading may have to pass over each of them

	// What was the reach at some time, and is to be begin when the transactions before next have ended. 0: next isn't known yet.
	candidate, next int64
}

// minLasts is how long what appears behind the position may have to wait while there is more than one batch.
const minLasts = time.Second

// rewind makes the next reading begin at the start.
func (p *position) rewind() { *p = position{} }

// ahead says whether the next reading goes on from the position.
func (p *position) ahead() bool {
	if !p.since.IsZero() && time.Since(p.since) >= p.lasts {
		p.rewind()
	}
	return !p.since.IsZero()
}

// start goes on behind a batch whose reading began at the start and took this long. Such readings shall take a twentieth of
// the time.
func (p *position) start(rows []row, took time.Duration) {
	*p = position{since: time.Now(), lasts: max(minLasts, 20*took)}
	for i := range rows {
		p.reach = max(p.reach, rows[i].seq)
	}
}

// advance goes past a batch that was read from the position on, in the order of seq; whole says that it had all there was up to
// the reach.
func (p *position) advance(rows []row, whole bool) {
	seen, last := rows[0].snapshot, rows[len(rows)-1].seq
	if p.next == 0 {
		p.candidate, p.next = p.reach, seen.next
	}
	p.passing += len(rows)
	if seen.oldest >= p.next && (whole || last >= p.candidate) {
		p.begin, p.passing, p.next = p.candidate, 0, 0
	}
	p.reach = max(p.reach, last)
}
