// Package pgfault is a proxy in front of PostgreSQL, for tests, that understands the protocol. It breaks a connection at a
// chosen statement (a COMMIT before it is forwarded, while the server works on it, after it took effect), it makes the
// database go away for new connections, and it counts round trips. Random restarts hardly ever hit a COMMIT.
//
//	proxy := pgfault.New(t, url)
//	pool := connect(proxy.URL())
//	fault := proxy.Arm(&pgfault.Fault{SQL: "commit", Do: pgfault.CutAfterReply})
//	err := work(pool) // an error, and yet it is committed
//	fault.RequireFired(t)
//
// What it promises:
//   - A statement is found by its SQL where it runs: in a simple query, and in the Execute of a prepared statement, so that
//     a COMMIT in a pipelined batch is found too. Preparing it isn't running it.
//   - Messages pass unchanged and in order. All that was sent before a fault's statement is forwarded; a statement that is
//     cut before it is forwarded never reaches the server, nor does anything behind it.
//   - The answer to a statement is all that the server sends from its statement's fault on until ReadyForQuery, which a
//     pipelined batch gets once, at its end. An answer that is swallowed is swallowed wholly, and answers to what was sent
//     with an earlier Sync still arrive.
//   - One side's close reaches the other as it does without a proxy: behind everything that was sent before.
//   - A fault that was armed and didn't fire fails the test.
//   - Nothing is left of it when the test ends: no goroutine, no connection.
//
// Cancel requests are forwarded, but not for what a fault has struck until the server has answered it: a client that gives
// up sends one, and what became of the statement would be left to chance. Requests for TLS are declined, so the database
// must allow connections without. Passwords pass, SCRAM without channel binding too.
package pgfault
