package outbox_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
)

// F32: an event that a trigger keeps out of the table is an error, though no other event is in its way.
func TestPutOfAnEventThatTheTableDoesNotTake(t *testing.T) {
	t.Parallel()
	each(t, databases, writer, func(t *testing.T, db *database) {
		if db.SQLite {
			db.Exec(t, "CREATE TRIGGER refuse BEFORE INSERT ON endstate_outbox WHEN NEW.aggregate_id = 'bad' BEGIN SELECT RAISE(IGNORE); END")
		} else {
			db.Exec(t, "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.aggregate_id = 'bad' THEN RETURN NULL; END IF; RETURN NEW; END $$")
			db.Exec(t, "CREATE TRIGGER refuse BEFORE INSERT ON endstate_outbox FOR EACH ROW EXECUTE FUNCTION refuse()")
		}
		event := func(id, dedup string) outbox.Event {
			return outbox.Event{AggregateType: "batch", AggregateID: id, Type: "completed", DedupKey: dedup, Payload: []byte("{}")}
		}
		for _, dedup := range []string{"", "b"} {
			err := db.Try(func(ctx context.Context, tx endstate.Tx) error {
				_, err := outbox.Put(ctx, tx, event("good", "g"), event("bad", dedup))
				return err
			})
			require.ErrorIs(t, err, outbox.ErrRefused)
			require.ErrorContains(t, err, "batch bad")
		}
		db.In(t, func(ctx context.Context, tx endstate.Tx) {
			results, err := outbox.Put(ctx, tx, event("good", "g"))
			require.NoError(t, err)
			require.True(t, results[0].Inserted)
			again, err := outbox.Put(ctx, tx, event("good", "g"))
			require.NoError(t, err)
			require.Equal(t, results[0].ID, again[0].HeldBy)
		})
	})
}
