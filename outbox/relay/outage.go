package relay

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/endstate-go/endstate/outbox"
)

const (
	minOutage = 100 * time.Millisecond
	maxOutage = 5 * time.Second
	probe     = 10          // events of the first call after one that took nothing; later ones have up to 160
	recently  = time.Minute // for how long the destination is trusted to be there after it took something
	maxPause  = time.Minute // bounds what a receiver may ask for as a whole
	maxDelay  = 24 * time.Hour
)

// gauge is what a relay knows of its destination. An event that is refused while others are taken is to blame itself. Where
// nothing is taken, nobody can tell: that is an outage, and costs no event anything.
type gauge struct {
	low, high time.Duration // pauses after calls that took nothing

	failures int       // calls in a row that took nothing
	until    time.Time // when to try again
	taken    time.Time // when it last took something
	from     int       // the aggregate to begin the next probe with
	told     bool      // that it is an outage

	// The only aggregates there are, whose events fail while there is nothing else to compare them with.
	alone      int64 // the first one's seq
	aloneSince time.Time
	trusted    bool // it had taken something shortly before

	rate float64   // events a second that it takes, where it says that they are too many; 0: no limit
	next time.Time // of the next call, by rate
	cut  time.Time // when the rate was last lowered
	slow bool      // it took nothing for a while, or has just said so for the first time, and nobody knows how much it takes now: the rate doubles until it refuses again
}

// size is how many events the next call may have, of n.
func (g *gauge) size(n int) int {
	if g.failures > 0 {
		n = min(n, probe<<min(g.failures-1, 4))
	}
	if g.rate > 0 {
		n = min(n, max(1, int(g.rate/4)))
	}
	return n
}

// took notes a call of which the destination took n events, and reports whether that ends an outage.
func (g *gauge) took(n int, now time.Time) (over bool) {
	over = g.failures > 1
	g.failures, g.from, g.until, g.alone = 0, 0, time.Time{}, 0
	g.taken = now
	switch {
	case g.rate == 0:
	case g.rate > 5000:
		g.rate, g.slow = 0, false
	case g.slow:
		g.rate *= 2
	default:
		g.rate += (0.05*g.rate + 0.5) * float64(n) / g.rate
	}
	return over
}

// nothing notes a call that took none of n events.
func (g *gauge) nothing(n int, now time.Time) {
	g.failures++
	g.from += n
	g.until = now.Add(backoff(g.low, g.high, g.failures))
}

// refused notes that of one call some events were taken and others put off by RetryAfter. The rate goes down by a part each
// time, and up slowly, so that it stays about what the receiver takes.
func (g *gauge) refused(taken int, after time.Duration, now time.Time) {
	switch {
	case taken == 0 && g.rate == 0:
		// It takes nothing, which tells nothing of what it takes when it is back.
	case taken == 0 && g.failures >= 3:
		g.slow, g.rate = true, max(1, min(g.rate, probe))
	case g.slow:
		g.slow, g.rate, g.cut = false, max(1, g.rate/2), now
	case g.rate == 0:
		g.rate, g.cut, g.slow = max(1, float64(taken)), now, true
	case now.Sub(g.cut) >= time.Second:
		g.rate, g.cut = max(0.2, g.rate*0.85), now
	}
	limit := maxPause
	if taken > 0 || now.Sub(g.taken) < recently {
		limit = time.Second // it is there, and the rate sees to the rest
	}
	g.until = now.Add(max(min(after, limit), g.low))
}

// few is how many aggregates may fail at the log's end without its being taken for an outage.
const few = 3

// isAlone notes that few aggregates failed, and that there are no others to compare them with. It reports whether they are to
// blame: they have failed for a while, and the destination had taken something shortly before.
func (g *gauge) isAlone(first int64, now time.Time, patience time.Duration) bool {
	if g.alone != first {
		g.alone, g.aloneSince = first, now
		g.trusted = !g.taken.IsZero() && now.Sub(g.taken) < recently
	}
	return g.trusted && now.Sub(g.aloneSince) >= patience
}

// trusts reports whether a failure now is the event's own, though nothing was taken with it.
func (g *gauge) trusts(now time.Time) bool {
	return g.failures == 0 && !g.taken.IsZero() && now.Sub(g.taken) < recently
}

// conclude sets the states of rows that weren't tried, or whose failure nobody can judge.
func (t *term) conclude(p *tries, b *batch) {
	names := map[name]bool{}
	for _, r := range b.rows {
		if r.state == todo {
			names[r.aggregate()] = true
		}
	}
	if p.taken == 0 && len(p.open) > 0 && len(names) <= few && t.gauge.isAlone(slices.MinFunc(p.open, bySeq).seq, time.Now(), t.cfg.alone) {
		for _, r := range p.open {
			if t.doubt[r.seq] >= 2 {
				t.blame(p, r, true)
				t.gauge.failures, t.gauge.until, t.gauge.taken = 0, time.Time{}, time.Time{} // which proves no more than that
			}
		}
	}
	doubt := map[int64]int{}
	failing := map[name]bool{}
	for _, r := range b.rows {
		switch {
		case r.state == failed && !t.cfg.Unordered:
			failing[r.aggregate()] = true
		case r.state == todo && failing[r.aggregate()]:
			r.state = held
		case r.state == todo && r.err != nil && !errors.Is(r.err, errPutOff):
			doubt[r.seq] = t.doubt[r.seq] + 1
		}
	}
	t.doubt = doubt
}

// report tells when the destination takes nothing, and keeps it with the cursors, for people.
func (t *term) report(ctx context.Context, p *tries) {
	if t.gauge.failures < 2 && time.Until(t.gauge.until) < time.Second || t.gauge.told || len(p.open) == 0 {
		return
	}
	r := p.open[0]
	t.gauge.told = true
	t.log.WarnContext(ctx, "outbox relay: the destination takes nothing, events wait and no attempts are counted", "event", r.ID, "error", lastError(r.err))
	if f := t.cfg.Trace.Blocked; f != nil {
		f(ctx, r.err)
	}
	if err := t.store.block(ctx, t.lease.id, r.ID.String(), lastError(r.err)); err != nil {
		t.log.WarnContext(ctx, "outbox relay: not written down", "error", err)
	}
}

// took notes that the destination took n events, which may end an outage.
func (t *term) took(n int) {
	if over := t.gauge.took(n, time.Now()); over || t.gauge.told || t.blocked {
		t.recovered()
	}
}

// recovered has everything that waits be due at once, when an outage is over.
func (t *term) recovered() {
	ctx := context.WithoutCancel(t.lease.ctx)
	told := t.gauge.told
	t.gauge.told, t.blocked = false, false
	if err := t.store.unblock(ctx, t.lease.id); err != nil {
		t.log.WarnContext(ctx, "outbox relay: not written down", "error", err)
	}
	t.nextDue = time.Now()
	if told {
		t.log.InfoContext(ctx, "outbox relay: the destination is back")
		if f := t.cfg.Trace.Blocked; f != nil {
			f(ctx, nil)
		}
	}
}

// decide says of rows that were refused, before another event was taken, that it is their own fault. One that is to come later
// is believed once: the rate may have been too high.
func (t *term) decide(p *tries, rows []*row) {
	for _, r := range rows {
		if r.state != todo || errors.Is(r.err, errPutOff) {
			if r.state == sent {
				delete(p.blocked, r.aggregate())
			}
			continue
		}
		if _, ok := retryAfter(r.err); ok && t.doubt[r.seq] == 0 && r.kind != parkedRow && !errors.Is(r.err, outbox.ErrPermanent) {
			continue
		}
		t.blame(p, r, true)
	}
}

// blame counts an attempt of an event that is to blame, and says what becomes of it.
func (t *term) blame(p *tries, r *row, proven bool) {
	t.judge(r, proven)
	if r.state == dead {
		delete(p.blocked, r.aggregate())
	}
	t.tell(r)
}

// judge is blame that isn't told yet. proven says that the destination took another event after it had refused this one; without that,
// one Permanent isn't believed, since a receiver that is set up wrong for a moment says it of all.
func (t *term) judge(r *row, proven bool) {
	r.attempts++
	if r.attempts >= t.cfg.MaxAttempts || errors.Is(r.err, outbox.ErrPermanent) && (proven || r.attempts >= 3) {
		r.state, r.after = dead, 0
		return
	}
	after, _ := retryAfter(r.err)
	r.state, r.after = failed, max(backoff(t.cfg.MinBackoff, t.cfg.MaxBackoff, r.attempts), min(after, maxDelay)).Seconds()
}

// tell reports an event that was judged.
func (t *term) tell(r *row) {
	ctx := context.WithoutCancel(t.lease.ctx)
	delay := time.Duration(r.after * float64(time.Second))
	attrs := []any{"event", r.ID, "type", r.Type, "aggregate", r.AggregateType + "/" + r.AggregateID, "attempt", r.attempts, "error", lastError(r.err)}
	if r.state == dead {
		t.log.ErrorContext(ctx, "outbox relay: event is dead", attrs...)
	} else {
		t.log.WarnContext(ctx, "outbox relay: event failed", append(attrs, "wait", delay)...)
	}
	if f := t.cfg.Trace.Failed; f != nil {
		f(ctx, r.Event, r.attempts, r.err, delay)
	}
	if f := t.cfg.Trace.Dead; f != nil && r.state == dead {
		f(ctx, r.Event, r.attempts, r.err)
	}
}

// block keeps with the cursors, for people, that the destination takes nothing.
func (s *store) block(ctx context.Context, owner, event, why string) error {
	return s.run(ctx, fmt.Sprintf("UPDATE %s SET blocked_since = %s, blocked_by = %s, blocked_why = CAST($4 AS text) WHERE %s AND blocked_since IS NULL",
		s.cursors, s.clock(), s.uuid("CAST($3 AS text)"), s.owned()), s.cfg.Subscription, owner, event, why)
}

// unblock takes that back, and makes all parked events due.
func (s *store) unblock(ctx context.Context, owner string) error {
	if err := s.run(ctx, fmt.Sprintf("UPDATE %s SET blocked_since = NULL, blocked_by = NULL, blocked_why = NULL WHERE %s AND blocked_since IS NOT NULL", s.cursors, s.owned()), s.cfg.Subscription, owner); err != nil {
		return err
	}
	return s.set(ctx, owner, "next_attempt_at = "+s.clock(), "p.dead_at IS NULL AND p.next_attempt_at > "+s.clock())
}

// retryAfter returns the pause that outbox.RetryAfter put into err; ok is false if there is none.
func retryAfter(err error) (after time.Duration, ok bool) {
	var r interface{ RetryAfter() time.Duration }
	if !errors.As(err, &r) {
		return 0, false
	}
	return r.RetryAfter(), true
}

// backoff is the pause after the attempt-th failure: low doubled each time, up to high, of which jitter takes up to a half.
func backoff(low, high time.Duration, attempt int) time.Duration {
	pause := min(float64(low)*math.Exp2(float64(attempt-1)), float64(high))
	return max(time.Duration(pause*(1-rand.Float64()/2)), time.Millisecond)
}

// maxLastError bounds what is stored of an error, in bytes.
const maxLastError = 1000

// lastError is an error's text as it can be stored.
func lastError(err error) string {
	text := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= maxLastError {
		return text
	}
	text = text[:maxLastError]
	for !utf8.ValidString(text) {
		text = text[:len(text)-1]
	}
	return text + "…"
}
