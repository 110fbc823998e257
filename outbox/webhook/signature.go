package webhook

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Secret is a key that sender and receiver share. It doesn't show in what prints it.
type Secret struct {
	key func() []byte // a function, since fmt shows the inside of everything else, also where String isn't asked
}

const secretPrefix = "whsec_"

// The limits that Standard Webhooks sets to a key, in bytes.
const (
	minKey = 24
	maxKey = 64
)

// ParseSecret reads a secret in the form of Standard Webhooks: "whsec_" and the base64 of 24 to 64 bytes. The error doesn't
// quote it.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	if !ok {
		return Secret{}, fmt.Errorf("%w: a secret doesn't begin with %s", ErrConfig, secretPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return Secret{}, fmt.Errorf("%w: a secret is not in base64 after %s", ErrConfig, secretPrefix)
	}
	if len(key) < minKey || len(key) > maxKey {
		return Secret{}, fmt.Errorf("%w: a secret has %d bytes, not %d to %d", ErrConfig, len(key), minKey, maxKey)
	}
	return Secret{func() []byte { return key }}, nil
}

// GenerateSecret returns the text of a new random secret, for both sides to keep and to parse.
func GenerateSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(key)
}

// String shows nothing of the secret.
func (s Secret) String() string { return secretPrefix + "…" }

// sign returns the signature of a message, without its version.
func (s Secret) sign(id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, s.key())
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// The headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"
)

const signatureVersion = "v1,"

// signHeaders sets the three headers: an attempt's time, and a signature by each secret.
func signHeaders(h http.Header, secrets []Secret, id string, now time.Time, body []byte) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	signatures := make([]string, len(secrets))
	for i, s := range secrets {
		signatures[i] = signatureVersion + base64.StdEncoding.EncodeToString(s.sign(id, timestamp, body))
	}
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	h.Set(headerSignature, strings.Join(signatures, " "))
}

// signature is what the three headers say.
type signature struct {
	id, timestamp string
	sent          time.Time
	all           []string // those of our version, in base64
}

// signatureOf reads the three headers. The signatures may be in several headers, as proxies and libraries may split lists.
func signatureOf(h http.Header) (signature, error) {
	s := signature{id: h.Get(headerID), timestamp: h.Get(headerTimestamp)}
	signatures := h.Values(headerSignature)
	for name, missing := range map[string]bool{headerID: s.id == "", headerTimestamp: s.timestamp == "", headerSignature: strings.Join(signatures, "") == ""} {
		if missing {
			return s, fmt.Errorf("%w: header %s is missing", ErrNoSignature, strings.ToLower(name))
		}
	}
	seconds, err := strconv.ParseInt(s.timestamp, 10, 64)
	if err != nil {
		return s, fmt.Errorf("%w: header webhook-timestamp is no number", ErrNoSignature)
	}
	s.sent = time.Unix(seconds, 0)
	for _, header := range signatures {
		for one := range strings.FieldsSeq(header) {
			if encoded, ok := strings.CutPrefix(one, signatureVersion); ok {
				s.all = append(s.all, encoded)
			}
		}
	}
	return s, nil
}

// verify checks the three headers. The age is looked at last: who doesn't know the secret learns nothing from it.
func verify(h http.Header, secrets []Secret, tolerance time.Duration, now time.Time, body []byte) error {
	s, err := signatureOf(h)
	if err != nil {
		return err
	}
	if !s.byOne(secrets, body) {
		return ErrWrongSignature
	}
	if age := now.Sub(s.sent); age > tolerance || age < -tolerance {
		return fmt.Errorf("%w: it was sent %v ago by the sender's clock, the tolerance is %v", ErrStale, age.Round(time.Second), tolerance)
	}
	return nil
}

// byOne reports whether one of the signatures is by one of the secrets.
func (s signature) byOne(secrets []Secret, body []byte) bool {
	for _, secret := range secrets {
		want := secret.sign(s.id, s.timestamp, body)
		for _, encoded := range s.all {
			if got, err := base64.StdEncoding.DecodeString(encoded); err == nil && hmac.Equal(got, want) {
				return true
			}
		}
	}
	return false
}

// checkSecrets says which of the secrets is the zero one.
func checkSecrets(secrets []Secret) error {
	for i, s := range secrets {
		if s.key == nil {
			return fmt.Errorf("%w: Secrets[%d] is empty; use ParseSecret", ErrConfig, i)
		}
	}
	return nil
}

// Errors that callers decide on. They arrive wrapped.
var (
	// ErrConfig is returned for a secret, a Config or a Receiver that doesn't make sense.
	ErrConfig = errors.New("webhook: invalid configuration")

	// ErrNoSignature is returned for a request that lacks a header of Standard Webhooks, or has one that can't be read.
	ErrNoSignature = errors.New("webhook: not signed")

	// ErrWrongSignature is returned for a request that was signed with none of the receiver's secrets, or changed since.
	ErrWrongSignature = errors.New("webhook: wrong signature")

	// ErrStale is returned for a request whose signature is right, but whose time is too far from now: a replay, or a clock
	// that is wrong.
	ErrStale = errors.New("webhook: sent too long ago, or in the future")

	// ErrTooLarge is returned for a request whose body is longer than the receiver takes.
	ErrTooLarge = errors.New("webhook: body is too large")

	// ErrNotEvent is returned for a request that isn't a CloudEvent of version 1.0, or not one that can be an outbox.Event.
	ErrNotEvent = errors.New("webhook: not an event")
)
