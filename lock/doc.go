// Package lock has locks that save work: of several callers that are about to do the same expensive thing, one does it while
// the others wait. Postgres, Local and, in package lockredis, Redis differ in where the lock is; what uses them needn't know
// which it has.
//
// # What it promises
//
//   - While the service is up and no holder is held up for longer than its TTL, one holder at a time has a key.
//   - A lock is given back when the function is done, returns an error, panics or exits, and though the caller's context has
//     ended. A holder whose process vanishes loses it when its TTL (Redis) or its connection (Postgres) ends.
//   - A holder that loses its lease is told: the context of its function ends with the cause ErrLost as soon as the loss is
//     seen, at the latest, with Redis, before its TTL is over by the holder's own monotonic clock; and Do returns ErrLost
//     though the function may have finished.
//   - Each lease has a fencing token that grows for a key (Token).
//   - A call waits as long as its context allows for the lock, and not for a service that hangs: a trip that gets no answer
//     within Timeout ends it with an error, and after repeated failures the service isn't asked for a while.
//
// # What it does not promise
//
// It is not safe to rely on for correctness, no lease is: a process may be stopped for longer than its lease lasts and go
// on without noticing, Redis may be flushed, restarted empty, or fail over to a replica that hasn't heard of the lock. Then
// two run at once. What must not happen twice needs something that decides when it is written: a guard in the database
// (package finalize), or a store that compares fencing tokens.
//
// # Use
//
//	locks, err := lock.NewPostgres(pool, nil)
//	...
//	err = locks.Do(ctx, "report/42", func(ctx context.Context) error {
//		return render(ctx, 42) // ctx ends when the lease is lost
//	})
//
// A Finalizer takes any of them as its Config.Lock.Locker.
//
// # Postgres
//
// The lock is a session's advisory lock on a connection of the pool, which the lease keeps. At most half of the pool is
// used for leases, waiters keep none, and PgBouncer is refused. The fencing token is the server's clock in microseconds.
package lock
