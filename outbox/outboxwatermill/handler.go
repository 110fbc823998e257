package outboxwatermill

import (
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/endstate-go/endstate/outbox/inbox"
)

// Handler makes a handler for Watermill's router (AddConsumerHandler) of an inbox's, which applies each event once, however often
// Watermill delivers it. An error is the router's to handle: without middleware the message is delivered again at once, forever.
// For those that no repetition fixes, inbox.Permanent is a filter for middleware.PoisonQueueWithFilter; middleware.Retry is for others.
// A message's context has no deadline unless a middleware sets one: give the handler one by its method Within, lest a database's
// connection that has gone silent hold the router up.
func Handler(handle inbox.Handler) message.NoPublishHandlerFunc {
	return func(msg *message.Message) error {
		if handle == nil {
			return fmt.Errorf("%w: the inbox's Handler is nil", ErrConfig)
		}
		event, err := Decode(msg)
		if err != nil {
			return err
		}
		_, err = handle(msg.Context(), event)
		return err
	}
}
