// Package outbox writes events into a table as part of the caller's transaction, so that they are there if and only if what
// they tell of is, and publishes them from there.
//
// # What it promises
//
// Of writing:
//
//   - Put writes in the caller's transaction and never ends it. Events commit with it or not at all.
//   - An event whose dedup key, or id, another event holds is left out, reported with that event's id, and writes nothing;
//     the caller's transaction stays usable.
//   - Dedup covers every row in the table, published ones too. It ends when a row is deleted: what must be deduplicated for
//     ever is the ledger's task (package guard), which no retention touches.
//   - An event keeps its id and its payload's bytes.
//   - Within one aggregate that a guard locks, the column seq follows the commit order, since it is allocated under the
//     lock. Across aggregates, and for bare Puts of concurrent transactions that lock nothing, it follows no order.
//
// Of publishing, with any number of relays on any number of hosts, and with any of them dying at any point:
//
//   - Every committed event is published at least once, with the same id each time, unless it becomes a dead letter. What
//     commits late under a lower seq isn't skipped, and nothing waits for it.
//   - The first publications of one aggregate's events come in the order of seq, however relays crash, pause, or share their
//     work anew. A relay that was paused for longer than its lease may then repeat events that another one has published.
//   - An event that fails is tried again, with exponential backoff, and holds back nothing but the later events of its
//     aggregate. After MaxAttempts, or at once if the publisher says Permanent, it is a dead letter: it stays, with its
//     last error, until somebody retries or discards it, which is recorded (Admin). An event that kills relays is isolated,
//     counted, and a dead letter after MaxCrashes.
//   - Whatever happens to the database, Run goes on when it is back. A publisher that panics or hangs costs some
//     PublishTimeouts, and counts against no other event.
//   - Leases, backoffs and retention go by the database's clock. The hosts' clocks may show anything.
//
// A consumer gets events more than once, and has to apply them once: package outbox/inbox does that.
//
// It does not promise an order to those who write one aggregate's events in concurrent transactions that lock nothing, nor
// across aggregates; and a dead letter that is retried comes after what was published meanwhile.
//
// # How events leave
//
// Each aggregate has one of 64 shards (Shard), and each shard has one relay, which holds a lease:
//
//	          take, up to its share          read, publish, mark; renew the lease
//	free ───────────────────────────> owned ──────────────────────────────────────┐
//	 ^                                  │ ^                                        │
//	 │ gives back surplus, shuts down   │ └────────────────────────────────────────┘
//	 ├──────────────────────────────────┤
//	 │ lease expired: another relay     │
//	 └─ ends it; what was in flight ────┘
//	    is published one by one
//
// A lease has an epoch, the fencing token. A relay reads events of the shards that its epoch owns, publishes them with no
// transaction open, and marks them in one statement that does nothing for an epoch that has ended. Before it publishes, it
// records which range of seq is in flight; that is how an event is found that kills the process.
//
// It reads a little of each shard, or in a backlog on PostgreSQL what comes next in all of them, and begins at the start again
// after a second, or up to ten where that is slow. Until then what is committed late may have to wait, but no later event of a
// guarded aggregate overtakes it.
//
// An event that failed leaves the index of pending events until it is due, and so do those that are found behind it. Thus
// thousands of events behind a failed one cost the others nothing.
//
// # Finding events
//
// A relay looks at the table again right after it found something, then less and less often, down to PollInterval. Wake,
// after a commit in the same process, or a Notifier and ListenURL, between processes, make it look at once. They are hints;
// nothing depends on them.
//
// # What to watch
//
// Admin.Stats has the figures: pending, retrying, dead, the age of the oldest, the rate. An oldest age that grows says that
// relays are too slow or away; Unowned, for longer than a LeaseTTL, that none runs. When one relay isn't fast enough, run
// another: two need no more configuration than one. RelayTrace has callbacks for metrics.
//
// # The tables
//
// DefaultTable, or any other name and schema (Writer), with three small ones beside it: _relays, _shards and _audit.
// Writer.Migrate creates them, Migrations returns the files for goose, Writer.Check and Writer.CheckRelay say what is missing.
package outbox
