// Package idempotencykey is a recipe: HTTP requests that are made once though they come several times, by the Idempotency-Key
// header of the IETF's draft (draft-ietf-httpapi-idempotency-key-header), on the results that an inbox keeps. The request's
// effects, a finalization among them, and the answer commit in one transaction.
package idempotencykey

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// Answer is what a request is answered, and its repeats too.
type Answer struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`
}

// Func is a request's work, in a transaction that keeps the answer. An error undoes all and is answered with 500: a repeat runs
// again. What is to be answered again, a refusal for instance, is an Answer.
type Func[Tx any] func(ctx context.Context, tx Tx, r *http.Request, body []byte) (Answer, error)

// Handler makes a handler of fn:
//
//   - 400 without a key, or with one that isn't a string of the draft's
//   - 409 while another request of the key is in progress
//   - 422 for a key that was used for another request: another method, path, query or body
//   - the answer that is kept, for a request that was answered before
//
// A key is the client's own: client names whom a request is from, such as an account, since two may choose the same key. The table
// should have a negative Wait, so that 409 comes at once, and negative MaxAttempts, since the client decides how often to try. Its
// Retention is how long answers are kept, which a service has to publish.
func Handler[Tx any](table *inbox.Table[Tx], client func(*http.Request) string, maxBody int64, fn Func[Tx]) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key, ok := parse(r.Header.Values("Idempotency-Key"))
		if !ok {
			problem(w, http.StatusBadRequest, "This operation needs one Idempotency-Key header, a string in double quotes.")
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			problem(w, http.StatusRequestEntityTooLarge, "The request's body can't be read, or is too large.")
			return
		}
		request := outbox.Event{
			ID:            uuid.NewSHA1(uuid.NameSpaceURL, []byte(client(r)+"\x00"+key)),
			AggregateType: "http",
			AggregateID:   uuid.NewSHA1(uuid.NameSpaceURL, []byte(r.URL.RequestURI())).String(),
			Type:          r.Method,
			ContentType:   "application/octet-stream",
			Payload:       body,
		}
		result, err := table.Results().Apply(r.Context(), request, func(ctx context.Context, tx Tx, _ outbox.Event) ([]byte, error) {
			answer, err := fn(ctx, tx, r, body)
			if err != nil {
				return nil, err
			}
			return json.Marshal(answer)
		})
		var answer Answer
		if err == nil {
			err = json.NewDecoder(bytes.NewReader(result.Value)).Decode(&answer)
		}
		switch {
		case errors.Is(err, inbox.ErrInProgress):
			problem(w, http.StatusConflict, "A request with this Idempotency-Key is in progress.")
		case errors.Is(err, inbox.ErrPayloadMismatch):
			problem(w, http.StatusUnprocessableEntity, "This Idempotency-Key was used for another request.")
		case err != nil:
			slog.ErrorContext(r.Context(), "a request failed", "path", r.URL.Path, "error", err)
			problem(w, http.StatusInternalServerError, "The request failed. It may be made again, with the same Idempotency-Key.")
		default:
			w.Header().Set("Content-Type", answer.ContentType)
			w.WriteHeader(answer.Status)
			_, _ = w.Write(answer.Body) // a client that has gone comes again
		}
	})
}

// parse reads the header, a string of RFC 8941: in double quotes, with backslashes before quotes and backslashes in it.
func parse(values []string) (key string, ok bool) {
	if len(values) != 1 {
		return "", false
	}
	text := strings.Trim(values[0], " ")
	if len(text) < 3 || len(text) > 255 || text[0] != '"' || text[len(text)-1] != '"' {
		return "", false
	}
	var b strings.Builder
	for rest := text[1 : len(text)-1]; rest != ""; rest = rest[1:] {
		switch c := rest[0]; {
		case c == '\\':
			if rest = rest[1:]; rest == "" || rest[0] != '"' && rest[0] != '\\' {
				return "", false
			}
		case c == '"', c < 0x20, c > 0x7e:
			return "", false
		}
		b.WriteByte(rest[0])
	}
	return b.String(), true
}

// problem answers as the draft shows, by RFC 9457.
func problem(w http.ResponseWriter, status int, detail string) {
	text, _ := json.Marshal(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail}) // strings and a number
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(text)
}
