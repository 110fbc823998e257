// Package soak runs the whole way of an event under faults, and checks what everybody was told and what is there afterwards.
//
// Four processes of producers call the library for the same keys (Do, DoTx, DoPrepared with a lock in Redis, Settle, SettleMany,
// Sweepers, on pgx and database/sql). Two relays publish for three subscriptions: to NATS, to Kafka (kfake) and to Redis. Two
// processes of consumers apply what the brokers deliver by an inbox in PostgreSQL, and read a fourth subscription in the
// transaction of their effects. Meanwhile each of them is killed and stopped past its leases, their backends are terminated, their
// connections cut, or silent, at COMMIT, at a settle and at the move; PostgreSQL is stopped, loses its disk's space, breaks statements off,
// has its clock moved, and fails over to a synchronous standby; brokers are killed, hang and change their leaders. Each kind of
// fault has to strike in each run.
//
// Every call and every return is recorded with a time that all processes share, and porcupine looks for an order of the calls in
// which each took effect at once between its call and its return, and in which a key was open until one call won it, and every
// other call read what that one had written. Where there is none, the library has told somebody something wrong. A call is one of
//
//	won      only from open: the key becomes final
//	lost     only from final, with the winner's receipt
//	open     the callback ran, and said ErrNotReady or failed: the key is open, and stays so
//	unknown  ErrOutcomeUnknown, or the process died: it took effect or not, at some time after the call
//	failed   any other error: it had no effect
//
// Then the rows: one transition of each key, with its events, each once; every event with each broker, an aggregate's first
// publications in their order; each consumer's effects once, and where it promises so in order; and nothing held afterwards.
//
// go test runs one short round, in which faults follow one another closely. The rounds of make soak are longer, and faults rarer,
// so that much is done between them. It goes on for as long as DURATION says, or until there are FINALIZATIONS, keeps what came of
// each round, goes on there when it is called again, and writes docs/soak.md. The seed says when which fault strikes whom and
// what producers call; what comes of it is the scheduler's affair. Finalizers that are broken on purpose prove that the check of
// histories can fail.
package soak
