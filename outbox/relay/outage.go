package relay

import (
	"errors"
	"math"
	"math/rand/v2"
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

// retryAfter returns the pause that outbox.RetryAfter put into err; ok is false if there is none.
func retryAfter(err error) (after time.Duration, ok bool) {
	var r interface{ RetryAfter() time.Duration }
	if !errors.As(err, &r) {
		return 0, false
	}
	return r.RetryAfter(), true
}

// failed says what becomes of an event that has failed for the attempt-th time, from 1: dead, or to be tried again after delay.
// proven says that the destination took another event after it had refused this one; without that, one Permanent isn't
// believed, since a receiver that is set up wrong for a moment says it of all.
func (c *Config) failed(attempt int, err error, proven bool) (dead bool, delay time.Duration) {
	if attempt >= c.MaxAttempts || errors.Is(err, outbox.ErrPermanent) && (proven || attempt >= 3) {
		return true, 0
	}
	after, _ := retryAfter(err)
	return false, max(backoff(c.MinBackoff, c.MaxBackoff, attempt), min(after, maxDelay))
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
