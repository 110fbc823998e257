// Package dbtest gives tests real databases. Servers come from the environment (make test starts them); where there is
// none, a test is skipped and says what it lacks, and under ENDSTATE_TEST_REQUIRE=1 it fails. What a test is given is its
// own, and goes at its end.
//
//   - [Postgres], [Pool] and [SQL] give a new database of the PostgreSQL at ENDSTATE_TEST_POSTGRES_URL.
//   - [RedisURL] and [Redis] give an empty logical database of the Redis at ENDSTATE_TEST_REDIS_URL.
//   - [SQLite] gives a new file.
//   - [StartPostgres], [StartStandby], [StartRedis], [StartPgBouncer] and [StartRabbitMQ] give a whole server, for tests that stop, kill or hold it.
package dbtest

import (
	"fmt"
	"os"
	"testing"
)

// server returns the URL of a shared server, or ends the test.
func server(t testing.TB, name, env string) string {
	t.Helper()
	url := os.Getenv(env)
	if url == "" {
		missing(t, name, env)
	}
	return url
}

// missing skips the test, or fails it where servers are required.
func missing(t testing.TB, what, env string) {
	t.Helper()
	message := fmt.Sprintf("needs %s: run make test, or set %s", what, env)
	if os.Getenv("ENDSTATE_TEST_REQUIRE") == "1" {
		t.Fatal(message)
	}
	t.Skip(message)
}
