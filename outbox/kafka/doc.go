// Package kafka publishes events to Apache Kafka, and hands them from there to a consumer's inbox. It is a module of its own, on
// twmb/franz-go.
//
// # What it promises
//
//   - An event counts as published when all of its partition's replicas that are in sync have it (acks=all). What that survives
//     is the topic's setting: min.insync.replicas of 2, with a replication factor of 3, survives the loss of a broker.
//   - The producer is idempotent: what the client sends again, since a reply got lost or a leader moved, is written once.
//     Across calls, and processes, a repetition is a record of its own with the same id, which consumers tell by.
//   - The key is the aggregate's id, so that an aggregate's events are in one partition of their topic, and in order. A relay
//     hands over whole batches (outbox.Ordered); after an event that was refused, none of its aggregate is taken in that batch.
//   - When Publish returns, the client has nothing of its batch and sends nothing of it later. A request that was on its way when
//     the context ended may still be written, as an earlier copy of what is published again.
//   - Refused for good is what no repetition changes: an event that is too large or that the broker calls invalid, one that
//     CloudEvents forbids (a control character in a type or an aggregate's id), a topic's name that is none. All else is tried
//     again: no such topic, no right to it, no leader, too few replicas in sync, no connection, a refused password.
//
// # Records
//
// A record is a CloudEvent 1.0 in the binary mode of its Kafka binding: the payload as value, the attributes as headers (ce_id,
// ce_type, ce_subject for the aggregate's id, ce_aggregatetype, content-type and so on). Decode reads it, and structured mode
// too. Its timestamp is the time of publication, so that retention keeps what is published late; ce_time has the event's own.
//
// All events go to one topic, or each to the one that a template names, such as "shop.{aggregatetype}", or Config.TopicFor. The
// topics are the service's own to create, unless kgo.AllowAutoTopicCreation is among the client's options. Events of one aggregate
// that go to several topics are published one topic after the other.
//
// # The consumer
//
// A Consumer is a member of a consumer group that hands the records of a partition to an inbox one after the other, and commits
// an offset after the inbox is done with it. When a partition goes to another member, its handler may finish, and its offset is
// committed, before the other one begins: deliveries are then neither lost nor doubled. Where a member dies, or the group has
// thrown it out, the other one begins at the last commit, and the inbox drops what is doubled.
//
// What can never be handled, or fails too often, goes to a topic of dead letters, as it was, with the reason in its headers; a
// Consumer of that topic handles it again. Without such a topic, or where it can't be written, the record is held: its partition
// waits, in order, and the others go on.
//
// # Its limits
//
// Kafka counts no deliveries: a record that kills its member's process does so until somebody skips it. A dead letter may be
// there more than once, if its member dies before the commit, or the brokers don't answer; its headers name the same offset.
//
// More partitions for a topic that has events change which of them an aggregate is in: drain it first where order matters. Where
// a broker refuses a batch as a whole, its events are sent one by one, which is slow: keep Config.MaxBatchBytes below the
// topics' max.message.bytes. The tests run against franz-go's kfake, a Kafka in the process with several brokers, whose faults
// are made: brokers that stop, leaders that move, replies that get lost. They don't run against Kafka itself.
package kafka
