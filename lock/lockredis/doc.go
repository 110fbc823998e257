// Package lockredis has a lock in Redis. What a lock promises, and what it doesn't, is said in package lock.
//
//	locks, err := lockredis.New(client, nil)
//	...
//	defer locks.Close()
//	err = locks.Do(ctx, "report/42", func(ctx context.Context) error {
//		return render(ctx, 42) // ctx ends when the lease is lost
//	})
//
// The lock is one key with a TTL, which is set if it isn't there, to a random value and the holder's name, and deleted if it
// still has that value. With it come
//
//   - renewal, at a third of the TTL, repeated after a failure;
//   - the loss of a lease, by Redis's word or by the clock;
//   - a fencing token, which is Redis's time in microseconds, read in the trip that takes the lock: no key is left behind;
//   - waiting: in a process one waiter for a key asks, with jittered backoff, and the others queue behind it in the order in
//     which they came; a release wakes waiters by a message (pub/sub), which is a hint, so that losing it costs a poll, and
//     which is sent only if somebody has asked for the lock meanwhile, who marks its value for that;
//   - a time limit for each trip, that doesn't depend on the client's options;
//   - an attempt's value that is known beforehand, so that a lock whose answer got lost is deleted and not left to its TTL.
//
// Taking and giving back a lock that nobody else wants are one trip each. Each lock is one key, so Cluster needs no hash
// tags; in keys with braces what is inside them chooses the slot, as ever.
//
// It is a lock of its own and not github.com/bsm/redislock: the token, the name of who holds a lock and the message to those
// who wait come from the same trip only if the script is ours, and then nothing of that library is left.
package lockredis
