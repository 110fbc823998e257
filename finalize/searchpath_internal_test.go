package finalize

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
)

// shows is a connection on which the tables are in some schemas.
type shows struct {
	endstate.Querier
	schemas string
	asked   *int
}

func (s shows) QueryRow(context.Context, string, ...any) pgx.Row { *s.asked++; return s }

func (s shows) Scan(dest ...any) error { *dest[0].(*string) = s.schemas; return nil }

func TestConnectionsAreLookedAtNowAndThen(t *testing.T) {
	p, asked := &searchPath{names: []string{"batches"}}, 0
	acme, globex := shows{schemas: "1", asked: &asked}, shows{schemas: "2", asked: &asked}
	for range 1000 {
		require.NoError(t, p.look(t.Context(), acme, 0))
	}
	require.Equal(t, firstLooks+1, asked, "the first few, then one a second")
	require.NoError(t, p.look(t.Context(), globex, lookEvery-1))
	require.NoError(t, p.refusal(lookEvery))
	require.ErrorIs(t, p.look(t.Context(), globex, lookEvery), ErrTenant)

	// It may have been a connection that somebody had left so, or a table that was moved.
	require.ErrorIs(t, p.refusal(lookEvery), ErrTenant)
	require.ErrorIs(t, p.refusal(lookEvery+refuseForThis-1), ErrTenant)
	later := lookEvery + refuseForThis + time.Nanosecond
	require.NoError(t, p.refusal(later))
	require.NoError(t, p.look(t.Context(), globex, later))
	require.ErrorIs(t, p.look(t.Context(), acme, later), ErrTenant)
}
