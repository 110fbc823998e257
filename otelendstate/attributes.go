package otelendstate

import (
	"context"
	"errors"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/lock"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

// Attributes of our own.
const (
	aggregate     attribute.Key = "endstate.aggregate"      // the aggregate's name, such as "batch"
	trigger       attribute.Key = "endstate.trigger"        // who called
	winner        attribute.Key = "endstate.winner.trigger" // who had finalized it
	outcome       attribute.Key = "endstate.outcome"
	state         attribute.Key = "endstate.state"
	attempts      attribute.Key = "endstate.attempts"
	eventType     attribute.Key = "endstate.event.type"
	subscription  attribute.Key = "endstate.subscription"
	lockName      attribute.Key = "endstate.lock.name"
	key           attribute.Key = "endstate.key"    // Config.Identifiers
	tenant        attribute.Key = "endstate.tenant" // Config.Identifiers
	errorType                   = semconv.ErrorTypeKey
	sqlState                    = semconv.DBResponseStatusCodeKey
	system                      = semconv.MessagingSystemKey
	operationName               = semconv.MessagingOperationNameKey
	operationType               = semconv.MessagingOperationTypeKey
	destination                 = semconv.MessagingDestinationNameKey
	group                       = semconv.MessagingConsumerGroupNameKey
	messageID                   = semconv.MessagingMessageIDKey
	batchCount                  = semconv.MessagingBatchMessageCountKey
	serverAddress               = semconv.ServerAddressKey
	serverPort                  = semconv.ServerPortKey
)

// named is a trigger as telemetry tells it: an inbox.Status calls with one made of an event's id.
func named(t finalize.Trigger) string {
	if strings.HasPrefix(string(t), "event ") {
		return "event"
	}
	return string(t)
}

// kinds are the names of errors that callers decide on.
var kinds = []struct {
	err  error
	name string
}{
	{finalize.ErrOutcomeUnknown, "unknown"},
	{finalize.ErrEventConflict, "conflict"},
	{finalize.ErrInProgress, "in_progress"},
	{finalize.ErrLockUnavailable, "lock_unavailable"},
	{finalize.ErrBusy, "busy"},
	{finalize.ErrNotReady, "not_ready"},
	{finalize.ErrNested, "nested"},
	{finalize.ErrTxEnded, "tx_ended"},
	{finalize.ErrTxAborted, "tx_aborted"},
	{guard.ErrNotFound, "not_found"},
	{guard.ErrNotOpen, "not_open"},
	{guard.ErrRewritten, "rewritten"},
	{guard.ErrRefused, "refused"},
	{guard.ErrNotTerminal, "not_terminal"},
	{guard.ErrInvalidKey, "invalid_key"},
	{guard.ErrAnomaly, "anomaly"},
	{guard.ErrSchema, "schema"},
	{outbox.ErrInvalidEvent, "invalid_event"},
	{outbox.ErrDuplicate, "duplicate"},
	{outbox.ErrRefused, "refused"},
	{outbox.ErrSchema, "schema"},
	{inbox.ErrInProgress, "in_progress"},
	{inbox.ErrPayloadMismatch, "payload_mismatch"},
	{inbox.ErrInvalidEvent, "invalid_event"},
	{inbox.ErrUnavailable, "unavailable"},
	{inbox.ErrClaimLost, "claim_lost"},
	{inbox.ErrTxEnded, "tx_ended"},
	{inbox.ErrTxAborted, "tx_aborted"},
	{inbox.ErrSchema, "schema"},
	{relay.ErrTxEnded, "tx_ended"},
	{relay.ErrTxAborted, "tx_aborted"},
	{relay.ErrRowsOpen, "rows_open"},
	{lock.ErrHeld, "held"},
	{lock.ErrLost, "lost"},
	{lock.ErrAmbiguous, "ambiguous"},
	{lock.ErrUnavailable, "unavailable"},
	{outbox.ErrPermanent, "permanent"},
}

// kind is what an error is called: the name of a sentinel, an SQLSTATE, how a context ended, or other.
func kind(err error) string {
	if err == nil {
		return ""
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	if code := stateOf(err); code != "" {
		return code
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return other
}

// stateOf is the SQLSTATE in an error, where the driver tells it.
func stateOf(err error) string {
	if s, ok := errors.AsType[interface {
		error
		SQLState() string
	}](err); ok {
		return s.SQLState()
	}
	return ""
}

// failed marks a span as one of something that failed. An error's text may hold keys, and more.
func (t *Telemetry) failed(span trace.Span, err error) {
	name := kind(err)
	span.SetAttributes(errorType.String(name))
	if code := stateOf(err); code != "" {
		span.SetAttributes(sqlState.String(code))
	}
	if t.cfg.Identifiers {
		name = err.Error()
	}
	span.SetStatus(codes.Error, name)
}
