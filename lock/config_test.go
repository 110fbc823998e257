package lock_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/lock"
)

func TestPostgresConfigErrorsNameTheField(t *testing.T) {
	pool := func(t *testing.T, conns string) *pgxpool.Pool {
		p, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/x?pool_max_conns="+conns)
		require.NoError(t, err)
		t.Cleanup(p.Close)
		return p
	}
	ten := pool(t, "10")
	for want, cfg := range map[string]lock.PostgresConfig{
		"MaxConns is -1; it must be from 1 to 9":            {MaxConns: -1},
		"MaxConns is 10; it must be from 1 to 9":            {MaxConns: 10},
		"Timeout is -1s":                                    {Timeout: -time.Second},
		"Check is 1µs, which is less than a millisecond":    {Check: time.Microsecond},
		"MinPoll is 1s, which is more than MaxPoll (500ms)": {MinPoll: time.Second},
	} {
		_, err := lock.NewPostgres(ten, &cfg)
		require.ErrorIs(t, err, lock.ErrConfig)
		require.ErrorContains(t, err, want)
	}
	_, err := lock.NewPostgres(pool(t, "1"), nil)
	require.ErrorContains(t, err, "the pool has one connection")
	_, err = lock.NewPostgres(nil, nil)
	require.ErrorContains(t, err, "pool is nil")
}
