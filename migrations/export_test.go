package migrations

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox/inbox"
)

// New files come after what a folder has, in the way in which it counts.
func TestExportCountsAsTheFolderDoes(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 12, 31, 23, 59, 58, 0, time.UTC)
	ledger := []Part{guard.Ledger{}}
	for _, tt := range []struct {
		format       Format
		there, first string
		second       string
	}{
		{Goose, "", "20261231235958_endstate_ledger.sql", "20261231235959_endstate_inbox.sql"},
		{Goose, "00041_own.sql", "00042_endstate_ledger.sql", "00043_endstate_inbox.sql"},
		{Goose, "20260101000000_own.sql", "20261231235958_endstate_ledger.sql", "20261231235959_endstate_inbox.sql"},
		{Goose, "20270101000000_own.sql", "20270101000001_endstate_ledger.sql", "20270101000002_endstate_inbox.sql"},
		{GolangMigrate, "9_own.up.sql", "10_endstate_ledger.down.sql", "11_endstate_inbox.down.sql"},
		{Tern, "", "001_endstate_ledger.sql", "002_endstate_inbox.sql"},
		{Tern, "099_own.sql", "100_endstate_ledger.sql", "101_endstate_inbox.sql"},
	} {
		dir := t.TempDir()
		if tt.there != "" {
			require.NoError(t, os.WriteFile(filepath.Join(dir, tt.there), nil, 0o600))
		}
		written, err := export(dir, tt.format, "postgres", now, ledger)
		require.NoError(t, err)
		require.Equal(t, tt.first, written[0])
		// The service calls it otherwise; it is known by its text.
		text, err := os.ReadFile(filepath.Join(dir, tt.first))
		require.NoError(t, err)
		version, _, _ := strings.Cut(tt.first, "_")
		require.NoError(t, os.Remove(filepath.Join(dir, tt.first)))
		require.NoError(t, os.WriteFile(filepath.Join(dir, version+"_renamed.sql"), text, 0o600))
		written, err = export(dir, tt.format, "postgres", now, append(ledger, inbox.TableConfig{}))
		require.NoError(t, err)
		require.Equal(t, tt.second, written[0], "%s after %q", tt.format, tt.there)
		written, err = export(dir, tt.format, "postgres", now, append(ledger, inbox.TableConfig{}))
		require.NoError(t, err)
		require.Empty(t, written)
		// Another ledger is another table.
		written, err = export(dir, tt.format, "postgres", now, []Part{guard.Ledger{Schema: "other"}})
		require.NoError(t, err)
		require.NotEmpty(t, written)
	}
}
