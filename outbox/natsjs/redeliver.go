package natsjs

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
		subject := letter.Header.Get(HeaderDeadSubject)
		header := nats.Header{}
		for key, values := range letter.Header {
			if !strings.HasPrefix(key, "Dead-") {
				header[key] = values
			}
		}
		// Another one than the event's, which the stream may remember; the event's own id is in ce-id.
		header.Set(jetstream.MsgIDHeader, fmt.Sprintf("redelivered/%s/%d", name, letter.Sequence))
		if _, err := c.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: header, Data: letter.Data}); err != nil {
			return redelivered, fmt.Errorf("natsjs: redeliver dead letter %d: %w", letter.Sequence, err)
		}
		if err := stream.DeleteMsg(ctx, letter.Sequence); err != nil {
			return redelivered, fmt.Errorf("natsjs: redelivered dead letter %d, but it could not be deleted: %w", letter.Sequence, err)
		}
		redelivered++
	}
	return redelivered, nil
}

// oneLine is a text that a header can hold.
func oneLine(text string) string {
	return strings.Map(func(c rune) rune {
		if c == '\r' || c == '\n' {
			return ' '
		}
		return c
	}, text)
}
