package inbox_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// What consumers made of events, by the events' ids: also where a consumer has keys of its own.
func TestFindSaysWhatBecameOfEvents(t *testing.T) {
	for name, option := range map[string]option{
		"by id": tableConfig(func(*inbox.TableConfig) {}),
		"by key": tableConfig(func(cfg *inbox.TableConfig) {
			cfg.Key = func(e outbox.Event) (string, error) { return "k/" + e.ID.String(), nil }
		}),
	} {
		t.Run(name, func(t *testing.T) {
			eachTable(t, func(t *testing.T, c *consumer) {
				handled, failed, other := event(), event(), event()
				_, err := c.way(charge)(t.Context(), handled)
				require.NoError(t, err)
				_, err = c.way(poison)(t.Context(), failed)
				require.ErrorIs(t, err, errPoison)
				_, err = c.way(charge)(t.Context(), other)
				require.NoError(t, err)
				dialect := sqltx.Postgres
				if c.database == "sqlite" {
					dialect = sqltx.SQLite
				}
				q := sqltx.WrapDB(c.db, dialect)
				found, err := inbox.Find(t.Context(), q, "", inbox.DefaultTable, handled.ID, failed.ID, uuid.New())
				require.NoError(t, err)
				require.Len(t, found, 2)
				for _, f := range found {
					require.WithinDuration(t, time.Now(), f.At, time.Hour)
					require.Equal(t, 1, f.Attempts)
					want := map[uuid.UUID]string{handled.ID: "handled ", failed.ID: "failed " + errPoison.Error()}[f.EventID]
					require.Equal(t, want, fmt.Sprint(f.State, " ", f.Err))
				}
				_, err = inbox.Find(t.Context(), q, "", "nowhere", handled.ID)
				require.ErrorContains(t, err, `find in "nowhere"`)
			}, option)
		})
	}
}
