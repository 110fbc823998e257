// Package finalize is the one door through which an aggregate reaches its terminal state. A service has several triggers
// for one completion (a periodic check, a threshold, a monitor sweep, recovery of stuck work, a webhook, an operator), they
// race, and the completion happens twice. Through a Finalizer, exactly one call moves the aggregate to a terminal state and
// puts its events into the outbox, in one database transaction.
//
// # What it promises
//
// For each key, whatever calls it, from however many goroutines, processes and hosts, with any of them dying at any point:
//
//  1. At most one terminal transition commits. A terminal state is never left and never overwritten.
//  2. The events of that transition are in the outbox if and only if it committed, each once.
//  3. If the work says ErrNotReady, or fails, nothing is written and the next trigger may win.
//  4. The winner knows that it won, and every loser learns the state; with a ledger also who won, when, and by which trigger.
//  5. When a COMMIT gets no answer, the finalizer finds out what became of it. It never reports a loss for what committed,
//     never wins twice, and never runs again what may have committed; if the database can't tell, that is ErrOutcomeUnknown,
//     after which calling again is safe.
//
// It does not promise anything about effects outside of the transaction: a callback may run more than once (its transaction
// was broken off by the database and is run again), so that mails and payments belong in events, whose consumers
// deduplicate. And it decides on the primary: rows deleted, or restored from a backup, are open again, at the latest when
// the cache's MaxAge has passed in each process, or after Forget.
//
// # Use
//
//	fin, err := finalize.New(pool, &finalize.Config{
//		Aggregate: "batch",
//		Guard: guard.All(
//			guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
//			guard.Ledger{}, // who, when, which trigger
//		),
//	})
//	...
//	receipt, err := fin.Do(ctx, guard.UUID(id), "threshold", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
//		...
//	})
//
// Do opens the transaction, DoTx works inside the caller's, and Settle is for an outcome that is known beforehand. NewSQL
// does the same for database/sql, on PostgreSQL and SQLite.
//
// # Long work
//
// A callback of Do holds the aggregate and a transaction while it runs. Work that takes long (scoring, rendering, a call of
// another service) belongs before that: DoPrepared does it with no transaction open, under Config.Lock if there is one, so
// that it is done once where triggers overlap. Package lock has locks in Redis, in PostgreSQL and in the process; a lock that
// fails, or is lost, costs duplicated work and nothing else.
//
// # How a call goes
//
//	Do      begin, claim ── final ──> roll back, receipt of the winner
//	          │ open: the aggregate is held
//	        callback ── ErrNotReady, error, panic ──> roll back
//	          │ outcome
//	        settle, events, commit ── refused by the server ──> roll back
//	          │
//	        receipt
//
// The first and the last step are one round trip each on pgx with the library's guards. Since COMMIT is on its way before the
// settle's result could be looked at, the server itself refuses: a settle that moves no row raises an error, and so does an
// event whose dedup key is taken, or a row that says something else than it was told. Settle is a single statement, whose
// command tag says whether it wrote. A loser finds nothing to hold or write in the first trip, and takes a second that reads the
// record (and rolls back): a new statement sees a winner who committed while this one waited. While most of the latest calls
// lost, calls read the record first, and a loser takes one trip; a winner pays for that with one more.
//
// # What the row says
//
// The service's own triggers, rules and generated columns may make something else of the state that was asked for. Then all is
// rolled back, since the events describe what was asked for, and the error is guard.ErrRewritten, with what the row says.
// Where a row takes no update although the aggregate is open and held, because a trigger returned NULL, a rule did something
// instead or row security forbids it, the error is guard.ErrRefused, after one run: it is no race. A callback that sets the
// status itself, or finalizes its own key, gets guard.ErrNotOpen: the outcome that it returns is what sets the status.
//
// What AFTER triggers and rules do isn't returned by the statement that they belong to. Tables that have any, which the catalog
// tells (it is asked at the first call, and again every minute), pay for a second look in the same transaction, which travels
// with the commit; for Settle it is a second round trip. On SQLite every call looks again. A deferred constraint trigger runs
// after that, within COMMIT, and may still change the row unseen; so may an AFTER trigger in the minute after its creation, and a
// BEFORE trigger that updates other rows than its own, where those are settled in the same statement.
//
// An event that the outbox's table doesn't take, because a BEFORE trigger returned NULL or a rule did something instead, is
// outbox.ErrRefused, with all rolled back: there would be a state without its events. An outbox that has such triggers or rules
// takes a statement of its own, and Settle goes through them one by one. So it is with a view whose update a trigger does instead.
//
// # What a call costs
//
// On pgx with the library's guards:
//
//	call                                 round trips
//	Settle, wins                                   1
//	Settle, loses                                  2
//	Settle or Do, loses, looked first              1
//	Do, wins or loses                              2
//	a repeat from the cache                        0
//
// docs/performance.md has rates and allocations, beside the same by hand. An event in JSON of version 1 without a time of its own is
// passed as eight arguments; any other takes eleven, which costs the server more. Wins don't slow down as finalized keys pile up: beside
// 30 million of them they ran at 0.97 to 1.02 of their rate on an empty database.
//
// # Storms
//
// A runaway loop costs less than a query. What wins or loses is remembered (CacheConfig), since terminal states are absorbing:
// a repeat is answered in this process with the full receipt, in well under a microsecond and without a connection. Calls of
// one process for one key go to the database one at a time; the others wait, each for as long as its own context lasts, and
// share what the one learns if the aggregate is final. And since the guard would otherwise hide such a bug, a key that is
// finalized again and again is reported by one warning a minute and by Trace.Hot (HotConfig). A key's ordinary losers are
// logged at debug level only.
//
// Many completions cost few commits: concurrent Settle calls of one process for different keys are gathered into one
// statement (GroupConfig), in which each gets its own receipt or its own error. One of a few calls goes at once, alone. What is
// known to be many beforehand goes through SettleMany.
//
// # What every trigger missed
//
// A Sweeper finds open aggregates that nobody has touched for a while and puts them through the same door: monitor and stuck
// recovery in one, on any number of hosts. guard.Status finds them by its column Touched, by the database's clock; a service
// may find them by a function of its own.
//
// # Time limits
//
// A call waits for another one that holds the aggregate, for up to Config.ClaimTimeout. When it, or the caller's context,
// ends, the server is asked to cancel and its answer is awaited, so that the outcome is known. A backend whose client
// vanished holds its locks until PostgreSQL notices: see package guard.
package finalize
