// Package natsjs publishes events to NATS JetStream, which drops repeats and replicates: for those who outgrow one machine.
//
// # What it promises
//
//   - An event counts as published when its stream has acknowledged it, with as many replicas as the stream has. With three
//     or more of them that survives the loss of a node, the leader's too, under load.
//   - A repetition has the same Nats-Msg-Id, the event's id, so the stream drops it while the id is in its duplicate window:
//     within that, consumers get an event once. Later repeats get through, and consumers tell them by the id.
//   - A batch is sent at once, and each of its events acknowledged by itself.
//   - What is too large for the server or the stream is refused for good, and so is what CloudEvents forbids in an attribute
//     (a control character in a type or an aggregate's id). All else is tried again: no stream for the subject,
//     a stream that is full, no leader, no connection.
//
// # Messages
//
// A message is a CloudEvent 1.0 in the binary mode of its NATS binding: the payload as data, the attributes as headers
// (ce-id, ce-type, ce-subject for the aggregate's id, ce-aggregatetype, content-type and so on). Decode reads it. The subject
// is Config.Prefix, the aggregate type and the event type, such as events.batch.assessment.completed; or what Config.Subject
// says.
//
// # The stream
//
// It is the service's own to create, over the subjects "events.>" for instance. Its duplicate window (Duplicates, 2 minutes
// unless set) should be longer than the time in which a repeat may come: after a relay has died, relay.Config.LeaseTTL; after
// failures, relay.Config.MaxBackoff. A stream with a limit and DiscardOld drops what nobody has read yet. Subscriptions that publish the
// same events each need a stream of their own: within the window one takes the other's for repeats.
//
// # The consumer
//
// A Consumer hands the messages of a JetStream consumer to an inbox, which drops what comes later than the duplicate window. A
// message is acknowledged after the inbox is done with it, and delivered again after an error or the death of its process.
// What can never be handled, or was delivered too often, is kept in another stream of dead letters.
//
// # Its limits
//
// While the connection is lost, what is published waits in the client's buffer (nats.ReconnectBufSize), and is sent even if
// its call has ended in the meantime: a repeat like any other. A server that takes nothing from the network holds a call up to
// the connection's nats.FlusherTimeout, a minute by default.
//
// A connection must reconnect forever, which New checks. What New can't check: a client that the server refuses twice for its
// credentials closes its connection for good, unless nats.IgnoreAuthErrorAbort is set.
package natsjs
