package outbox

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"time"
	"unicode/utf8"
)

// maxRetryAfter bounds what a receiver may ask for.
const maxRetryAfter = 24 * time.Hour

// failed says what becomes of an event that failed for the attempt-th time, from 1.
func (c *RelayConfig) failed(seq int64, attempt int, err error) failure {
	f := failure{Seq: seq, Counted: 1, Error: lastError(err)}
	if errors.Is(err, ErrPermanent) || attempt >= c.MaxAttempts {
		f.Dead = true
		return f
	}
	f.Delay = max(backoff(c.MinBackoff, c.MaxBackoff, attempt), min(retryAfter(err), maxRetryAfter)).Seconds()
	return f
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
