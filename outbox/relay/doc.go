// Package relay publishes the events of an outbox. An outbox is a log, to which producers append in their transactions (package
// outbox). What is published is no mark on a row: it is where a reader stands.
//
// # What it promises
//
// With any number of relays on any number of hosts, and with any of them dying at any point, to each subscription:
//
//   - Every matching event that commits after its start is published at least once, with the same id each time, unless it becomes
//     a dead letter. What commits late under a lower number isn't skipped, and nothing waits for it.
//   - The first publications of one guarded aggregate's events come in commit order. A relay that was paused for longer than its
//     lease may then repeat events that another one has published.
//   - An event that fails while others are taken is tried again, with exponential backoff, and holds back nothing but the later
//     events of its aggregate. After MaxAttempts, or at once if the publisher says Permanent, it is a dead letter: it stays, with
//     its last error, until somebody decides (Admin), which is recorded.
//   - Where nothing is taken, whatever the failures are called, that is an outage, and no event's fault: nothing is counted and
//     nothing written, however long. A few events are tried now and then, and with the first that is taken, all goes on at full
//     speed. One event that fails with nothing to compare it with is reported as blocking, and not given up.
//   - An event that kills relays is isolated, counted, and a dead letter after MaxCrashes.
//   - A row that can't be read is a dead letter, with the reason, and stops nobody. Nor does one that somebody has deleted though it
//     was still to be published: that is logged.
//   - Whatever happens to the database, Run goes on when it is back. Leases, backoffs and retention go by its clock.
//
// Consumers get events more than once, and have to apply them once: package outbox/inbox does that. With asynchronous commits, or
// a fail-over that loses commits, an event may have been published whose row is gone. No order is promised to those who write
// one aggregate's events in concurrent transactions that lock nothing, nor across aggregates; and a dead letter that is retried
// comes after what was published meanwhile.
//
// # Subscriptions
//
// A relay works for one subscription ("default"), and each has its own cursors, parked events and dead letters: one publishes to a
// broker, another calls a partner's webhook, whose outage is nobody else's. A subscription may be about some types only, and
// begins at the log's beginning, its end, or a time.
//
// # Consumers in the same database
//
// NewConsumer and NewConsumerSQL need no broker: a handler applies the subscription's events in the database that they are in,
// exactly once. Reading, the handler's writes and the cursor's move are one transaction, a batch each, so that a crash at any point
// leaves all of it or nothing. The reading is its first statement, before it has a transaction id, and the move its last, which
// the cursor's token refuses if the partition has another owner by then. If a COMMIT gets no answer, the next reading shows what
// became of it.
//
// If a batch fails, its events get a transaction each (not savepoints, since a deferred constraint fails at COMMIT). The first one
// that is handled after others have failed tells that they are to blame, and its transaction parks them. A parked event is retried
// in a transaction that removes its row. Where everything fails, that is an outage, as with publishers.
//
// # The protocol
//
// Each aggregate belongs to one of outbox.Partitions partitions, and each subscription has a cursor for each partition, which one
// relay owns. A cursor says: every row with seq up to position that is visible in snapshot is published, or parked.
//
//	          take, up to its share          read, publish, move
//	free ───────────────────────────> owned ───────────────────┐
//	 ^                                  │ ^                     │
//	 │ gives back surplus, shuts down   │ └─────────────────────┘
//	 ├──────────────────────────────────┤
//	 │ lease expired: another relay     │
//	 └─ ends it; what was in flight ────┘
//	    is published one by one
//
// Read is one statement in READ COMMITTED, with one snapshot S, which it returns with the cursor, and
//
//   - fresh rows: seq > position, in their order, up to a limit;
//   - late rows: those up to position that snapshot doesn't show, and S does: their txid is in snapshot's list of what was in
//     progress, or it is snapshot's xmax or more and seq > prior_position.
//
// Publish goes in the order of seq, an aggregate's events one after the other. Move is one UPDATE, if the cursor still has the
// token that S showed, and the database is still the incarnation: position = what was read, snapshot = S, prior_position = the
// position that S showed, a new random token; and, in the same transaction, rows for what failed.
//
// Why nothing is lost: a row's transaction has its txid before the row has its seq. So a row with seq up to position that S doesn't
// show was in progress at S: it is in S's list, or its txid is S's xmax or more, since xmax is one past the last transaction that
// had completed. For the latter, let M be the move that wrote the position that S showed. M had completed at S, so such a txid
// was taken after M's, M's after its reading, and the seq later still: it is above M's position, which is now prior_position.
//
// That has conditions. prior_position is what S showed, never what is in memory. A reading neither writes nor locks, so that
// the move's transaction takes its txid after S. Reading and move are of one incarnation, a random row in an UNLOGGED table, which
// doesn't survive what commits may not survive. Tokens are random. A new subscription that doesn't start at the beginning makes two
// moves without publishing. The sequence never goes back, which is checked (ErrSequence). Rows of a restore have txids from
// elsewhere: up to restored_through nothing is late.
//
// Late rows that are more than a batch go out in pieces by the first piece's snapshot, before anything fresh of the partition. SQLite
// has one writer, so seq is the order of commits, and position is all there is.
//
// # Finding events
//
// A relay looks at the table again right after it found something, then less and less often, down to PollInterval. Wake, after a
// commit in the same process, or a Notifier and ListenURL, between processes, make it look at once. They are hints; nothing
// depends on them.
//
// # What to watch
//
// Admin.Stats has the figures: pending, retrying, dead, the age of the oldest, the rate. An oldest age that grows says that relays are
// too slow, away, or that the destination takes nothing (Trace.Blocked, and the cursors' blocked_since and blocked_why). When
// one relay isn't fast enough, run another: two need no more configuration than one.
//
// # Reading this package
//
// relay.go and term.go begin and end, pass.go is the loop: read.go reads what postgres.go and sqlite.go ask for, publish.go publishes, outage.go says
// whose fault it is, and move.go moves the cursors. subscription.go and lease.go are about who works for what, parked.go about what
// failed, careful.go about what a dead relay left, retention.go about what may go. consumer.go, handle.go and singly.go are about
// handlers in place of publishers. What operators ask is in admin.go, list.go, aggregate.go, stats.go, deadletter.go and replay.go.
package relay
