// Package pgfault is a proxy in front of PostgreSQL, for tests, that understands the protocol. It breaks a connection at a
// chosen statement (a COMMIT before it is forwarded, after it took effect, while the server still works on it) and counts
// round trips.
//
// A statement is found by its SQL, in a simple query as well as in the Execute of a prepared one, so that a COMMIT that
// travels in a pipelined batch is found too. Random restarts hardly ever hit a COMMIT.
package pgfault
