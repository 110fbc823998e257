package outbox_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// A database that can't be asked lacks nothing: who decides by ErrSchema, such as a service that migrates then, must not.
func TestCheckOfADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	for name, columns := range map[string]*outbox.Columns{"own": nil, "mapped": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := newDatabase(t, "pgx")
			db.Migrate(t, outbox.Writer{})
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			err := outbox.Writer{Columns: columns}.Check(ctx, db.Pool)
			require.ErrorIs(t, err, context.Canceled)
			require.NotErrorIs(t, err, outbox.ErrSchema)
			require.ErrorIs(t, outbox.Writer{Table: "nowhere", Columns: columns}.Check(t.Context(), db.Pool), outbox.ErrSchema)
		})
	}
}
