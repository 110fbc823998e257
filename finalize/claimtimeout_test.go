package finalize_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
)

// ClaimTimeout bounds the wait for another call, and not what the winner's own settle and COMMIT take: a slow disk, or a standby that
// is waited for, must not break a win off.
func TestClaimTimeoutIsNotTheCommits(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, w *world) {
		w.exec(`CREATE FUNCTION doze() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(6); RETURN NULL; END $$;
			CREATE CONSTRAINT TRIGGER doze AFTER UPDATE ON batches DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION doze()`)
		r, err := w.do(t.Context(), w.open("b1"), "threshold", complete("b1"))
		require.NoError(t, err)
		require.True(t, r.Won)
		w.requireFinal("b1", "COMPLETE_STABLE", "batch.completed")
	}, on("pgx", "sql"), guardedBy("status"), configured(func(c *finalize.Config) { c.ClaimTimeout = 5 * time.Second }))
}
