// Package testserver starts private PostgreSQL, Redis, PgBouncer and RabbitMQ servers on ports of their own in temporary folders, for
// tests, benchmarks and the test runner. It finds the binaries that Debian's packages install. PostgreSQL and PgBouncer
// refuse to run as root, so for root they run as an unprivileged user.
//
// A server listens on 127.0.0.1 only and asks for no password. It ends with the process that started it, even if that one
// is killed (on Linux). Its methods are for one goroutine at a time.
package testserver
