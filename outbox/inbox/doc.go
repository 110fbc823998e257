// Package inbox is the receiving side of an outbox: a consumer applies each event once, though it is delivered several times.
//
// # What it promises
//
// Publication is at least once, so the consumer decides whether anybody is charged twice. There are three ways to decide:
//
//   - Table keeps a row for each event in the transaction in which the consumer's own writes are made. The effect happens
//     exactly once, whatever dies at any point, as long as all of it is in that transaction.
//   - Status leaves it to the consumer's aggregate: its state machine (package guard, through package finalize) refuses the
//     second transition. Exactly once as well, for consumers that move a state.
//   - Claims, kept in Redis by package inboxredis, are for effects that no transaction of ours can hold: the event is claimed,
//     the claim renewed while the function runs, and the event marked as handled afterwards. That is usually once: repeats of
//     a handled event are dropped, concurrent ones wait. The effect happens again if the process dies between the effect and
//     the mark, if it stops for longer than the claim lasts, or if Redis loses its data. The remedy is to key the effect
//     itself: a credit's row by the batch that it is for, a payment by the idempotency key that its provider takes.
//
// With each way:
//
//   - Two deliveries of one event are never in the function at once, with the exceptions named for Claims. The second one
//     waits for the first, or fails with ErrInProgress: see Wait.
//   - When the function fails, nothing of the inbox remains that would keep a later delivery from handling the event.
//   - A repeat of one id with another type, aggregate or payload is told apart, also if it had to wait: ErrPayloadMismatch.
//
// It does not promise an order, and it is no queue: what delivers (a webhook, a broker) delivers again after an error. Headers
// and the time of an event aren't compared.
//
// # Use
//
//	table, err := inbox.NewTable(pool, &inbox.TableConfig{Consumer: "results"})
//	...
//	handler := inbox.Handle(table, func(ctx context.Context, tx pgx.Tx, event outbox.Event) error {
//		_, err := tx.Exec(ctx, "INSERT INTO results …")
//		return err
//	})
//
// A Handler is what the receivers take: webhook.Receiver.Handler, redisstream.NewConsumer, natsjs.NewConsumer, kafka.NewConsumer. For metrics and
// traces, wrap it: it is a function, and its Result tells what became of the delivery.
//
// # The same event, or the same thing
//
// The default key is the event's id: a relay that publishes twice keeps the id. It is no help against a producer that announces
// one thing by two events, as an incident's four triggers did: each completion had an id of its own. A business key (Key in
// the configurations) names what must happen once, such as the event's type and the batch. It should include the type: of two
// events of one key only the first is applied, and the outcome of the second, unless its content is the same, is Collided.
// Where the types differ, that is logged as an error, since an effect is lost.
//
// Events of others have ids of their own kind (evt_123), which stand in a header or in the payload. A Key that returns it
// makes such an event one that is handled once, though its ID is empty.
//
// # Events of no concern
//
// A stream has events that a consumer has nothing to do with. Types names those that it handles; a function, or Key, that has
// to look closer returns ErrSkip. Nothing is kept of what is skipped.
//
// # Failures
//
// A Table counts the attempts at which the function failed, apart from the transaction that was rolled back, and turns an
// event into a dead letter after MaxAttempts of them, or at once after outbox.Permanent: it is kept, its deliveries are
// answered as done with, and DeadLetters, Retry and Discard are for the people who look after it. What the inbox itself met
// (no connection, a lost COMMIT, a consumer that is being stopped) isn't counted: the next delivery finds out what became of
// it. For the other two ways, what delivers counts.
//
// # Retention
//
// Table.Clean deletes old records, and a store of claims forgets them. An event that is published once more after that is applied once
// more. So keep them for longer than the producer's longest retry: from an event's first publication until nobody, neither
// relay nor operator, will publish it again.
package inbox
