// Package outboxtest is for tests of code that uses the outbox:
//
//   - [RequirePut], [RequireNotPut] and [RequireTypes] look for events in the outbox, as a transaction sees it.
//
//   - [Recorder] is a publisher that keeps what it is given, fails on demand, and can be waited for.
//
//   - [Publisher] tests whether a publisher keeps the contract of outbox.Publisher, against the real broker:
//
//     func TestMyPublisher(t *testing.T) {
//     outboxtest.Publisher(t, func(t *testing.T) outboxtest.Subject {
//     topic := newTopic(t)
//     return outboxtest.Subject{Publisher: mypublisher.New(topic), Received: topic.all, Hang: topic.hang, Refused: tooLarge}
//     })
//     }
package outboxtest
