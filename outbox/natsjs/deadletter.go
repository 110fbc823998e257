package natsjs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The headers that a dead letter has beside the message's own.
const (
	HeaderDeadSubject  = "Dead-Subject"  // the message's subject
	HeaderDeadConsumer = "Dead-Consumer" // the stream and consumer that gave it up
	HeaderDeadError    = "Dead-Error"    // why, at most 1,000 bytes of it
	// HeaderDeadMessage is set where the message has no room for the headers above, since it is nearly as long as the server
	// or the stream allows. They are then alone in this dead letter, and the message, as it was, is the one of this sequence
	// number in the same stream.
	HeaderDeadMessage = "Dead-Message"
)

const deadPrefix = "Dead-"

func (c *Consumer) name() string { return c.info.Stream + "/" + c.info.Name }

// deadLetters is the stream of the dead letters.
type deadLetters struct {
	name       string
	maxMsgSize int // 0: no limit of its own
}

// findDeadLetters asks for the stream of the dead letters, and refuses one that can't hold what the consumer's stream can.
func (c *Consumer) findDeadLetters(ctx context.Context) (deadLetters, error) {
	name, err := c.js.StreamNameBySubject(ctx, c.cfg.DeadLetters)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return deadLetters{}, fmt.Errorf("%w: no stream takes ConsumerConfig.DeadLetters %q", ErrConfig, c.cfg.DeadLetters)
	case err != nil:
		return deadLetters{}, err
	case name == c.info.Stream:
		return deadLetters{}, fmt.Errorf("%w: ConsumerConfig.DeadLetters is a subject of the consumer's own stream %s, which would deliver them again", ErrConfig, name)
	}
	longest := func(stream string) (int, error) {
		s, err := c.js.Stream(ctx, stream)
		if err != nil {
			return 0, err
		}
		return max(int(s.CachedInfo().Config.MaxMsgSize), 0), nil
	}
	own, err := longest(c.info.Stream)
	if err != nil {
		return deadLetters{}, err
	}
	dead, err := longest(name)
	if err == nil && dead > 0 && (own == 0 || own > dead) {
		err = fmt.Errorf("%w: stream %s of ConsumerConfig.DeadLetters takes messages of up to %d bytes, and the consumer's stream %s longer ones", ErrConfig, name, dead, c.info.Stream)
	}
	return deadLetters{name, dead}, err
}

// fits reports whether a message can be a dead letter.
func (c *Consumer) fits(header nats.Header, data []byte) bool {
	size, own := headerSize(header), c.dead.maxMsgSize
	return size <= maxHeader && int64(size+len(data)) <= c.js.Conn().MaxPayload() && (own == 0 || size+len(data) <= own)
}

// bury keeps a message as a dead letter, and has it delivered no more.
func (c *Consumer) bury(ctx context.Context, m jetstream.Msg, cause error) error {
	note := nats.Header{}
	note.Set(HeaderDeadSubject, m.Subject())
	note.Set(HeaderDeadConsumer, c.name())
	note.Set(HeaderDeadError, oneLine(cause.Error()))
	id := ""
	if meta, err := m.Metadata(); err == nil { // so that a message that is buried twice is kept once; a stream that is made anew counts from 1 again
		id = fmt.Sprintf("dead/%s/%d/%d", c.name(), meta.Sequence.Stream, meta.Timestamp.UnixNano())
		note.Set(jetstream.MsgIDHeader, id)
	}
	err := c.keep(ctx, m, note, id)
	if err != nil {
		return fmt.Errorf("%w (and it could not be kept under %s: %w)", cause, c.cfg.DeadLetters, err)
	}
	c.cfg.Logger.ErrorContext(ctx, "message became a dead letter", "stream", c.info.Stream, "consumer", c.info.Name, "subject", m.Subject(), "dead_letters", c.cfg.DeadLetters, "error", cause)
	return m.Term()
}

// keep publishes a message with a note to the dead letters; as two where they don't fit into one.
func (c *Consumer) keep(ctx context.Context, m jetstream.Msg, note nats.Header, id string) error {
	header := withoutDead(m.Headers())
	header.Del(jetstream.MsgIDHeader)
	both := nats.Header{}
	maps.Copy(both, header)
	maps.Copy(both, note)
	if c.fits(both, m.Data()) {
		_, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: c.cfg.DeadLetters, Header: both, Data: m.Data()})
		return err
	}
	if id != "" {
		if header.Set(jetstream.MsgIDHeader, id+"/message"); !c.fits(header, m.Data()) {
			header.Del(jetstream.MsgIDHeader)
		}
	}
	ack, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: c.cfg.DeadLetters, Header: header, Data: m.Data()})
	if err != nil {
		return err
	}
	note.Set(HeaderDeadMessage, strconv.FormatUint(ack.Sequence, 10))
	_, err = c.js.PublishMsg(ctx, &nats.Msg{Subject: c.cfg.DeadLetters, Header: note})
	return err
}

// withoutDead returns a copy of a header without what a dead letter says, which isn't the sender's to say.
func withoutDead(header nats.Header) nats.Header {
	own := nats.Header{}
	for key, values := range header {
		if !strings.HasPrefix(key, deadPrefix) {
			own[key] = values
		}
	}
	return own
}

// Redeliver publishes the consumer's oldest dead letters, at most count, under their subjects again, and returns how many.
// Other consumers of the stream get them once more, too, which their inboxes drop. When a call is broken off, one of them may
// be both in the stream and a dead letter.
func (c *Consumer) Redeliver(ctx context.Context, count int) (redelivered int, err error) {
	name, err := c.js.StreamNameBySubject(ctx, c.cfg.DeadLetters)
	if err != nil {
		return 0, fmt.Errorf("natsjs: redeliver: %w", err)
	}
	stream, err := c.js.Stream(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("natsjs: redeliver: %w", err)
	}
	for next := uint64(1); redelivered < count; {
		letter, err := stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(c.cfg.DeadLetters))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return redelivered, fmt.Errorf("natsjs: redeliver: %w", err)
		}
		next = letter.Sequence + 1
		if letter.Header.Get(HeaderDeadConsumer) != c.name() {
			continue
		}
		if err := c.redeliver(ctx, stream, letter); err != nil {
			return redelivered, fmt.Errorf("natsjs: redeliver dead letter %d: %w", letter.Sequence, err)
		}
		redelivered++
	}
	return redelivered, nil
}

// redeliver publishes the message of one dead letter again, and deletes the letter.
func (c *Consumer) redeliver(ctx context.Context, stream jetstream.Stream, letter *jetstream.RawStreamMsg) error {
	message, sequences := letter, []uint64{letter.Sequence}
	if at := letter.Header.Get(HeaderDeadMessage); at != "" {
		sequence, err := strconv.ParseUint(at, 10, 64)
		if err == nil {
			message, err = stream.GetMsg(ctx, sequence)
		}
		if err != nil {
			return fmt.Errorf("its message %s: %w", at, err)
		}
		sequences = append(sequences, sequence)
	}
	header := withoutDead(message.Header)
	// Another id than the event's, which the stream may remember; the event's own is in ce-id. There may be no room for one.
	header.Set(jetstream.MsgIDHeader, fmt.Sprintf("redelivered/%s/%d/%d", stream.CachedInfo().Config.Name, letter.Sequence, letter.Time.UnixNano()))
	m := &nats.Msg{Subject: letter.Header.Get(HeaderDeadSubject), Header: header, Data: message.Data}
	_, err := c.js.PublishMsg(ctx, m)
	if tooLarge(err) {
		header.Del(jetstream.MsgIDHeader)
		_, err = c.js.PublishMsg(ctx, m)
	}
	if err != nil {
		return err
	}
	for _, sequence := range sequences {
		if err := stream.DeleteMsg(ctx, sequence); err != nil {
			return fmt.Errorf("it was redelivered, but could not be deleted: %w", err)
		}
	}
	return nil
}
