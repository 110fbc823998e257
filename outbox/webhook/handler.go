package webhook

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// Handler returns an http.Handler that verifies each request and hands its event to a consumer's inbox. It answers so that a
// Publisher, or any sender by these conventions, does what is right:
//
//	200, 204    the event was handled, now or before, or skipped; a result that the inbox kept is the body
//	202         the event is kept as a dead letter
//	400, 413    no event; too long
//	401         not signed, wrongly, or too long ago
//	405         not a POST
//	422         the inbox will never take it: another payload under a known id, no usable key, or outbox.Permanent
//	503         another delivery of it is in progress, or the store of claims is away: again in a second (Retry-After)
//	500         handling it failed: again
//
// Nothing of the event remains applied unless the status is 200 or 204. The header Endstate-Outcome tells the inbox's outcome.
// Each request that is refused gets a line at warn level; logger may be nil, for slog.Default(). Mount a handler for each
// consumer at a path of its own. The error is ErrConfig, for a Receiver without usable secrets, or with a limit below 0.
func (r Receiver) Handler(handle inbox.Handler, logger *slog.Logger) (http.Handler, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	if handle == nil {
		return nil, fmt.Errorf("%w: the inbox's Handler is nil", ErrConfig)
	}
	if logger == nil {
		logger = slog.Default()
	}
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, http.StatusText(http.StatusMethodNotAllowed), http.StatusMethodNotAllowed)
			return
		}
		event, err := r.Event(req)
		status := Status(err)
		var result inbox.Result
		if err == nil {
			result, err = handle(req.Context(), event)
			status = handledStatus(result, err)
		}
		if err != nil {
			logger.WarnContext(req.Context(), "webhook refused", "status", status, "event", event.ID.String(), "error", err)
			if status == http.StatusServiceUnavailable {
				w.Header().Set("Retry-After", "1")
			}
			http.Error(w, http.StatusText(status), status) // and no more: whoever sent it may be a stranger
			return
		}
		w.Header().Set("Endstate-Outcome", result.Outcome.String())
		if status == http.StatusOK {
			w.Header().Set(contentType, "application/octet-stream")
		}
		w.WriteHeader(status)
		_, _ = w.Write(result.Value) // a sender that is gone asks again
	}), nil
}

// handledStatus is the status to answer to what an inbox said.
func handledStatus(result inbox.Result, err error) int {
	switch {
	case inbox.Permanent(err):
		return http.StatusUnprocessableEntity
	case errors.Is(err, inbox.ErrInProgress), errors.Is(err, inbox.ErrUnavailable):
		return http.StatusServiceUnavailable
	case err != nil:
		return http.StatusInternalServerError
	case result.Outcome == inbox.DeadLettered:
		return http.StatusAccepted
	case result.Value != nil:
		return http.StatusOK
	}
	return http.StatusNoContent
}
