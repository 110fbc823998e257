package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/endstate-go/endstate/outbox"
)

// PermanentStatus reports whether a status says of the event itself that it will never be taken: 413, 415, 422 and 431. Every
// other one that isn't 2xx is tried again. A 400 is among them, since it may as well come from a proxy, or from a release of the
// receiver that fails at everything; and so is what only an operator can fix (401, 403, 404, 410, by which receivers say that
// they have unsubscribed, a redirect). It is the relay that tells one event's failure from a destination's.
func PermanentStatus(status int) bool {
	return slices.Contains([]int{
		http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity, http.StatusRequestHeaderFieldsTooLarge,
	}, status)
}

// refused is nil for a status of 2xx, else what to tell the relay. The answer's body is left out: it may repeat the payload.
func (p *Publisher) refused(resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	err := fmt.Errorf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		err = fmt.Errorf("%w: redirects are not followed; name the final URL", err)
	}
	if p.cfg.Permanent(resp.StatusCode) {
		return outbox.Permanent(err)
	}
	if pause := retryAfter(resp.Header, time.Now()); pause > 0 {
		return outbox.RetryAfter(err, pause)
	}
	return err
}

// maxRetryAfter is the longest pause that a receiver can ask for, so that its mistake doesn't hold events for years.
const maxRetryAfter = time.Hour

// retryAfter is the pause that an answer asks for, in seconds or as a date, at most maxRetryAfter; zero if there is none. A
// date is taken by the receiver's own clock where it tells it.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if at, err := http.ParseTime(value); err == nil {
		if theirs, err := http.ParseTime(h.Get("Date")); err == nil {
			now = theirs
		}
		return min(max(at.Sub(now), 0), maxRetryAfter)
	}
	seconds, err := strconv.ParseUint(value, 10, 63)
	if errors.Is(err, strconv.ErrSyntax) {
		return 0
	}
	return time.Duration(min(seconds, uint64(maxRetryAfter/time.Second))) * time.Second
}
