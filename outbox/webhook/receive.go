package webhook

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/cloudevents"
)

// Receiver is the receiving side: it reads, verifies and decodes requests. It is safe for concurrent use as long as nobody
// changes it.
type Receiver struct {
	// Secrets are those of which one must have signed. Required. While a secret is replaced, both are here.
	Secrets []Secret
	// Tolerance is how far a request's time may be from now. Default 5 minutes. A repetition by the relay is signed anew.
	Tolerance time.Duration
	// MaxBody is the longest body in bytes. Default 2 MiB, which holds the outbox's longest payload by default.
	MaxBody int64
	// Binary also takes CloudEvents' binary mode, where the signature covers the id and the payload, but not the type nor
	// the other attributes: whoever has seen a signed request could send it again as another one.
	Binary bool
}

// check says which field doesn't make sense.
func (r Receiver) check() error {
	switch {
	case len(r.Secrets) == 0:
		return fmt.Errorf("%w: Receiver.Secrets is empty", ErrConfig)
	case r.Tolerance < 0:
		return fmt.Errorf("%w: Receiver.Tolerance is %v", ErrConfig, r.Tolerance)
	case r.MaxBody < 0:
		return fmt.Errorf("%w: Receiver.MaxBody is %d", ErrConfig, r.MaxBody)
	}
	return checkSecrets(r.Secrets)
}

// Event reads a request, verifies it and returns its event. Nothing of the body is read without headers that may be a
// signature, nor of one that says that it is too long. The errors are ErrTooLarge, those of Verify, ErrNotEvent, and
// those of reading; Status makes an answer of them.
func (r Receiver) Event(req *http.Request) (outbox.Event, error) {
	if err := r.check(); err != nil {
		return outbox.Event{}, err
	}
	limit := r.MaxBody
	if limit == 0 {
		limit = 2 << 20
	}
	if _, err := signatureOf(req.Header); err != nil {
		return outbox.Event{}, err // whoever doesn't sign needn't be listened to
	}
	if req.ContentLength > limit {
		return outbox.Event{}, fmt.Errorf("%w: Receiver.MaxBody is %d bytes", ErrTooLarge, limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(nil, req.Body, limit))
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return outbox.Event{}, fmt.Errorf("%w: Receiver.MaxBody is %d bytes", ErrTooLarge, tooLarge.Limit)
	}
	if err != nil {
		return outbox.Event{}, fmt.Errorf("webhook: read the request: %w", err)
	}
	if err := r.Verify(req.Header, body); err != nil {
		return outbox.Event{}, err
	}
	if !r.Binary && !structured(req.Header) {
		return outbox.Event{}, fmt.Errorf("%w: content type is %q, not %s, and Receiver.Binary is not set", ErrNotEvent, req.Header.Get(contentType), cloudevents.StructuredType)
	}
	e, err := Decode(req.Header, body)
	if err != nil {
		return outbox.Event{}, err
	}
	if !sameID(req.Header, e) {
		return outbox.Event{}, fmt.Errorf("%w: its id differs from the header webhook-id", ErrNotEvent)
	}
	return e, nil
}

// sameID reports whether an event's id is the message's, which is signed. In binary mode the event's own isn't, nor the source,
// of which an id that is no UUID takes a part: one that could be sent again with another id is refused.
func sameID(header http.Header, e outbox.Event) bool {
	message := header.Get(headerID)
	if id, err := uuid.Parse(message); err == nil {
		return id == e.ID
	}
	return structured(header) && message == e.Headers[cloudevents.OriginalID]
}

// Verify checks a request's signature: ErrNoSignature, ErrWrongSignature and ErrStale tell what is wrong with it.
func (r Receiver) Verify(header http.Header, body []byte) error {
	if err := r.check(); err != nil {
		return err
	}
	tolerance := r.Tolerance
	if tolerance == 0 {
		tolerance = 5 * time.Minute
	}
	return verify(header, r.Secrets, tolerance, time.Now(), body)
}

const (
	contentType     = "Content-Type"
	attributePrefix = "Ce-"
)

// Decode returns the event in a request of either mode, and ErrNotEvent if there is none. It verifies nothing. Fields that
// another producer leaves out are empty; an id that isn't a UUID is in the header cloudevents.OriginalID.
func Decode(header http.Header, body []byte) (outbox.Event, error) {
	var e outbox.Event
	var err error
	if structured(header) {
		e, err = cloudevents.ParseStructured(body)
	} else {
		e, err = decodeBinary(header, body)
	}
	if err != nil {
		return outbox.Event{}, fmt.Errorf("%w: %w", ErrNotEvent, err)
	}
	return e, nil
}

func structured(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get(contentType))
	return err == nil && media == cloudevents.StructuredType
}

func decodeBinary(header http.Header, body []byte) (outbox.Event, error) {
	attributes := map[string]string{}
	for name, values := range header {
		name, ok := strings.CutPrefix(name, attributePrefix)
		if !ok || len(values) == 0 {
			continue
		}
		value, err := cloudevents.Unescape(values[0])
		if err != nil {
			return outbox.Event{}, fmt.Errorf("header ce-%s %w", strings.ToLower(name), err)
		}
		attributes[strings.ToLower(name)] = value
	}
	if len(attributes) == 0 {
		return outbox.Event{}, fmt.Errorf("content type is %q, not %s, and no header begins with ce-", header.Get(contentType), cloudevents.StructuredType)
	}
	attributes[cloudevents.DataContentType] = header.Get(contentType)
	return cloudevents.FromAttributes(attributes, body)
}

// Status is the HTTP status to answer to an error of Receiver.Event: 401, 413, 400 or, for one that isn't about the request,
// 500. A Publisher repeats a request that got 401, which is right after a secret was fixed.
func Status(err error) int {
	switch {
	case errors.Is(err, ErrNoSignature), errors.Is(err, ErrWrongSignature), errors.Is(err, ErrStale):
		return http.StatusUnauthorized
	case errors.Is(err, ErrTooLarge):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, ErrNotEvent):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}
