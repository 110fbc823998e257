// Package guard decides who may finalize an aggregate: whatever calls, from however many processes, at most one transaction
// moves it to a terminal state.
//
// # What it promises
//
//   - At most one committed transition for each (aggregate type, key). A terminal state is never left and never overwritten.
//   - The decision is the database's, made by a compare-and-set under the row's lock. No clock, lease or process decides.
//   - A call that comes after the winner's commit writes nothing: no row lock, no transaction id, no dead row. One that
//     races the winner may write its own lock and abort records.
//   - A missing aggregate is ErrNotFound and never a win.
//   - A transition is what the row says after it: what the database made of it instead is ErrRewritten, and a row that takes
//     no update is ErrRefused.
//   - A guard opens no transaction and ends none. What it decides holds if its transaction commits.
//
// It does not stop code that writes the status column without asking. Status.Protect installs a trigger that does, and All
// notices it afterwards as an AnomalyError.
//
// # The guards
//
// Status guards a status column of the service's own table. Ledger guards by a table of the library's own, for aggregates
// without a status and for provenance: who finalized it, when, by which trigger. All keeps several together:
//
//	guard.All(
//		guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
//		guard.Ledger{},
//	)
//
// A service's own Guard takes two methods over a transaction, Claim and Settle; package guardtest has the suite that
// reports whether they keep the contract.
//
// # What a claim costs
//
// On PostgreSQL, Status locks an open row with FOR NO KEY UPDATE (inserts that reference it go on), and Ledger takes a
// transaction-level advisory lock, since there is no row yet: an attempt that turns out not to be ready writes nothing. A
// backend whose client has vanished holds these locks until PostgreSQL notices: set idle_in_transaction_session_timeout,
// client_connection_check_interval and, from PostgreSQL 17, transaction_timeout. On SQLite a claim takes the database's one
// write lock.
//
// The guards work under READ COMMITTED, which finalize pins. In a caller's REPEATABLE READ or SERIALIZABLE transaction a
// race ends in SQLSTATE 40001, and the caller runs its transaction again.
package guard
