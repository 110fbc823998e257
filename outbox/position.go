package outbox

import "time"

// position is how far a relay has come with a backlog. What it published lately lies before that, as dead rows that a reading
// from the start passes over each time: all of them for as long as an old snapshot keeps them from being removed. So while
// there is more than one batch, readings go on from where nothing more can appear that an aggregate's order asks for.
//
// An event of a guarded aggregate has a transaction id before it has its seq. So when every transaction has ended that got its
// id before a reading did, no such event can still be committed with a seq that the reading saw, or a lower one. Other events
// that appear behind the position, and dead letters that are retried, are found when reading begins at the start again: after a
// second, or up to ten where that is slow.
type position struct {
	since time.Time     // when a reading last began at the start; zero: the next one does
	lasts time.Duration // how long readings go on from there

	begin int64 // readings begin after this seq
	reach int64 // and came to this one
	seen  int64 // up to here some were read from the start

	// What is to be begin when the transactions before own, that of the reading which saw it, have ended; 0: nothing is.
	candidate, own int64

	tries int // readings since begin last went on, each of which passes over what they found
	allow int // how many there may be
}

// How long what appears behind the position may have to wait while there is more than one batch, the least and the most.
const (
	minLasts = time.Second
	maxLasts = 10 * time.Second
)

// How many readings begin may take to go on. When transactions that stay open held it back for as many, it is given only a few
// chances from then on.
const (
	manyTries = 20
	fewTries  = 4
)

// rewind makes the next reading begin at the start.
func (p *position) rewind() {
	allow := p.allow
	if p.begin == 0 && p.tries > 0 && p.tries >= allow {
		allow = fewTries
	}
	*p = position{allow: allow}
}

// expire rewinds a position from which readings have gone on for long enough.
func (p *position) expire() {
	if p.ahead() && time.Since(p.since) >= p.lasts {
		p.rewind()
	}
}

// ahead says whether there is a position to go on from.
func (p *position) ahead() bool { return !p.since.IsZero() }

// follows says whether begin goes on with the readings.
func (p *position) follows() bool { return p.ahead() && p.tries < p.allow }

// start goes on behind a batch that began at the start and whose reading took this long, which shall be a twentieth of the time
// at most. Of the shards that may have more, reach is where the first one ended; seen is where the last one did.
func (p *position) start(reach, seen int64, took time.Duration) {
	*p = position{since: time.Now(), lasts: min(max(minLasts, 20*took), maxLasts), reach: reach, seen: seen, allow: p.allow}
	if p.allow == 0 {
		p.allow = manyTries
	}
}

// advance goes past a batch that was read from the position on, in the order of seq; whole says that it had all there was up to
// the reach.
func (p *position) advance(rows []row, whole bool) {
	seen, last := rows[0].snapshot, rows[len(rows)-1].seq
	p.tries++
	if p.own != 0 && seen.oldest >= p.own && (whole || last >= p.candidate) {
		p.begin, p.own, p.tries, p.allow = p.candidate, 0, 0, manyTries
	}
	p.reach = max(p.reach, last)
	if p.own == 0 {
		p.candidate, p.own = p.reach, seen.own
	}
}
