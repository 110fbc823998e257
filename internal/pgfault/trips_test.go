package pgfault_test

import (
	"context"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
)

func TestTrips(t *testing.T) {
	f := setUp(t)
	pool := dbtest.PoolOn(t, f.proxy.URL())
	want := map[string][]string{
		"pgx":                           {`["begin"]`, `["` + increment + `"]`, `["commit"]`},
		"pgx, pipelined":                {`["begin" "` + increment + `" "commit"]`},
		"pgx, one prepared statement":   {`["` + increment + ` WHERE $1"]`},
		"pgx, one simple query":         {`["` + increment + `"]`},
		"database/sql":                  {`["begin"]`, `["` + increment + `"]`, `["commit"]`},
		"database/sql, one statement":   {`["` + increment + ` WHERE $1"]`},
		"pgx, a select":                 {`["select 1"]`},
		"pgx, a select, several a time": {`["select 1"]`, `["select 1"]`},
	}
	ways := append(f.ways(t),
		way{name: "pgx, a select", run: func(ctx context.Context) error { return pool.QueryRow(ctx, "select 1").Scan(new(int)) }},
		way{name: "pgx, a select, several a time", run: func(ctx context.Context) error {
			for range 2 {
				if err := pool.QueryRow(ctx, "select 1").Scan(new(int)); err != nil {
					return err
				}
			}
			return nil
		}})
	seen := 0
	for _, w := range ways {
		if want[w.name] == nil {
			continue
		}
		seen++
		t.Run(w.name, func(t *testing.T) {
			require.NoError(t, w.run(t.Context())) // connects, and prepares the statements
			trips := f.proxy.Trips(func() { require.NoError(t, w.run(t.Context())) })
			// Pools ping a connection that wasn't used for a second, and database/sql one at its second use.
			trips = slices.DeleteFunc(trips, func(trip string) bool { return trip == `["-- ping"]` })
			require.Equal(t, want[w.name], trips)
		})
	}
	require.Len(t, want, seen)
}

// An answer counts as soon as the client can see it, however fast it goes on.
func TestTripsOfAFastClient(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	conn, err := pgx.Connect(ctx, f.proxy.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	const n = 5000
	require.Len(t, f.proxy.Trips(func() {
		for range n {
			require.NoError(t, conn.Ping(ctx))
		}
	}), n)
}

func TestTripsLeaveOutTheConnectionsStartAndEnd(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	require.Len(t, f.proxy.Trips(func() {
		conn, err := pgx.Connect(ctx, f.proxy.URL())
		require.NoError(t, err)
		require.NoError(t, conn.Ping(ctx))
		require.NoError(t, conn.Close(ctx))
	}), 1)
	require.Empty(t, f.proxy.Trips(func() {}))
}

// What is sent without waiting for an answer is one round trip, however many Syncs it has; waiting in between makes two.
func TestTripsOfPipelines(t *testing.T) {
	ctx := t.Context()
	f := setUp(t)
	conn, err := pgx.Connect(ctx, f.proxy.URL())
	require.NoError(t, err)
	defer conn.Close(context.Background())
	read := func(pipeline *pgconn.Pipeline) {
		result, err := pipeline.GetResults()
		require.NoError(t, err)
		if reader, ok := result.(*pgconn.ResultReader); ok {
			_, err = reader.Close()
			require.NoError(t, err)
		}
	}
	for _, tt := range []struct {
		name string
		want int
		run  func(*pgconn.Pipeline)
	}{
		{"two Syncs, no waiting", 1, func(p *pgconn.Pipeline) {
			p.SendQueryParams("SELECT 1", nil, nil, nil, nil)
			p.SendPipelineSync()
			p.SendQueryParams("SELECT 2", nil, nil, nil, nil)
			require.NoError(t, p.Sync())
			for range 4 {
				read(p)
			}
		}},
		{"two Syncs, waiting", 2, func(p *pgconn.Pipeline) {
			for range 2 {
				p.SendQueryParams("SELECT 1", nil, nil, nil, nil)
				require.NoError(t, p.Sync())
				read(p)
				read(p)
			}
		}},
		{"Flush, waiting", 2, func(p *pgconn.Pipeline) {
			p.SendQueryParams("SELECT 1", nil, nil, nil, nil)
			p.SendFlushRequest()
			require.NoError(t, p.Flush())
			read(p)
			require.NoError(t, p.Sync())
			read(p)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Len(t, f.proxy.Trips(func() {
				p := conn.PgConn().StartPipeline(ctx)
				tt.run(p)
				require.NoError(t, p.Close())
			}), tt.want)
		})
	}
}
