package main

import (
	"fmt"
	"os"

	"github.com/endstate-go/endstate/internal/testserver"
)

// startServers starts those servers that the environment doesn't name, and returns what the tests need to know of them.
func startServers() (env []string, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, f := range stops {
			f()
		}
	}
	env = []string{"ENDSTATE_TEST_REQUIRE=1"}
	if os.Getenv("ENDSTATE_TEST_POSTGRES_URL") == "" {
		postgres, err := testserver.StartPostgres()
		if err != nil {
			return nil, stop, fmt.Errorf("start PostgreSQL: %w", err)
		}
		stops = append(stops, postgres.Close)
		env = append(env, "ENDSTATE_TEST_POSTGRES_URL="+postgres.URL())
	}
	if os.Getenv("ENDSTATE_TEST_REDIS_URL") == "" {
		redis, err := testserver.StartRedis()
		if err != nil {
			return nil, stop, fmt.Errorf("start Redis: %w", err)
		}
		stops = append(stops, redis.Close)
		env = append(env, "ENDSTATE_TEST_REDIS_URL="+redis.URL())
	}
	return env, stop, nil
}
