// Package endstate finalizes once. A service has several triggers for one completion (a threshold, a sweep, a webhook, an
// operator's button), they race, and what should happen once happens twice. Through this library exactly one of them moves
// the aggregate to its terminal state and puts its events into the outbox, in one database transaction.
//
// # The promise
//
// For each key, whatever calls it, from any number of goroutines, processes and hosts, with any of them dying at any point:
//
//  1. At most one terminal transition commits. A terminal state is never left and never overwritten.
//  2. The events of that transition are in the outbox if and only if it committed, each once.
//  3. Every committed event is published at least once, with one id, and those of one aggregate in order. A consumer with an
//     inbox applies each once.
//  4. Work that says "not ready", or fails, writes nothing, and the next trigger may win.
//  5. The winner knows that it won, and every loser learns the state. A COMMIT that got no answer is looked into.
//
// Effects outside of the database are not covered: they belong in events, whose consumers deduplicate.
//
// # The parts
//
//   - finalize is the one door: Do opens a transaction, DoTx works in yours, Settle is for an outcome known beforehand.
//   - guard decides who may finalize: a status column of your own, a ledger of the library's, both, or a guard you write.
//   - outbox writes events as part of a transaction, and its relay publishes them: to Kafka, NATS JetStream, Redis Streams, by
//     webhook, or by a publisher you write.
//   - outbox/inbox is the consumer's side.
//   - lock makes long work happen once before the door. No promise rests on it.
//   - guard/guardtest, outbox/outboxtest and lock/locktest test what you write against their contracts.
//
// This package holds what all of them work on: a transaction, of pgx or, wrapped, of database/sql.
//
// # The shortest program
//
// A status column decides, and a ledger remembers who won:
//
//	fin, err := finalize.New(pool, &finalize.Config{
//		Aggregate: "batch",
//		Guard: guard.All(
//			guard.Status{Table: "batches", Key: "id", Column: "status", Terminal: guard.Prefixes("COMPLETE", "ERROR")},
//			guard.Ledger{},
//		),
//	})
//	if err != nil {
//		return err
//	}
//	if err := fin.Migrate(ctx); err != nil { // the ledger and the outbox
//		return err
//	}
//	receipt, err := fin.Do(ctx, guard.Text("batch-1"), "threshold", func(ctx context.Context, tx pgx.Tx) (finalize.Outcome, error) {
//		// The work, in the transaction that finalizes. Return finalize.ErrNotReady if it is too early.
//		return finalize.Outcome{State: "COMPLETE", Events: []outbox.Event{{Type: "batch.completed", Payload: []byte(`{}`)}}}, nil
//	})
//	// receipt.Won, receipt.State, receipt.Trigger, receipt.At
//
// The example runs it whole, on SQLite.
package endstate
