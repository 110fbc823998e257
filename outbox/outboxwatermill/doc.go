// Package outboxwatermill publishes events by any of Watermill's publishers, in Watermill's own form, so that the consumers which a
// service has read them as they read others; and has Watermill's handlers apply each event once. It is a module of its own.
//
// # What it promises
//
// An event counts as published when Watermill's publisher has returned without an error: what that is worth is the publisher's.
// These return once the broker has taken the message for good, so nothing is lost:
//
//   - watermill-amqp, with Config.Publish.ConfirmDelivery (by default it is off), a durable configuration, and a queue that
//     exists: to an exchange without queues a broker confirms what it drops. Or with Config.Publish.Transactional, which is slower.
//   - watermill-kafka, with sarama's Producer.RequiredAcks = sarama.WaitForAll (by default the leader alone acknowledges, and
//     what it took is lost with it). Package outbox/kafka has an idempotent producer, and batches.
//   - watermill-nats with JetStream (by default it has it), watermill-googlecloud, watermill-aws, watermill-redisstream (as safe as
//     Redis' own persistence), watermill-http (as the answer's status says), watermill-sql, -sqlite, -bolt and -firestore, each
//     in a transaction of its own.
//
// With these, events get lost, since they return before anybody has the message, or keep it in memory:
//
//   - watermill-amqp as it is configured by default, and watermill-nats without JetStream;
//   - gochannel: what its subscribers have not handled is lost with the process, and what nobody subscribes to at once, unless
//     it is Persistent. With BlockPublishUntilSubscriberAck a subscriber that acknowledges late suffices within one process;
//   - watermill-io, and everything around a publisher that collects messages to send them later.
//
// The promises of outbox.Publisher hold with these limits: a call of Watermill's can't be ended. When the relay's patience is
// over, Publish returns, and leaves the call behind, whose event may still arrive: a repeat, like others. At most
// Config.Concurrency calls are under way, those that were left behind included; Wait waits for them. An error counts as one that
// passes, unless Config.Permanent says otherwise.
//
// # Messages
//
//	message.UUID               the event's id
//	message.Payload            the payload, byte for byte
//	metadata name              the event's type, where Watermill's CQRS component looks for it
//	metadata endstate_…        aggregate_type, aggregate_id, content_type, occurred_at (RFC 3339) and schema_version
//	other metadata             the event's headers, trace context among them
//	metadata endstate_headers  those whose names or values a transport may trip over, as a JSON object
//
// A control character in the event's type or its aggregate's name is refused for good. Decode reads a message. Where a
// broker partitions, PartitionKey keeps an aggregate's events together.
package outboxwatermill
