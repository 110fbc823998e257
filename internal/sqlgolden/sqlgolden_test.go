package sqlgolden_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/sqlgolden"
)

func TestFormatChangesWhiteSpaceAlone(t *testing.T) {
	const sql = `WITH endstate_a AS (UPDATE "my (table" SET "a AND b" = ' WHERE ' WHERE (id = $1 AND x IS DISTINCT FROM 'it''s (') AND EXISTS (SELECT FROM other) RETURNING true), endstate_b AS (SELECT 1) SELECT 1 FROM endstate_a`
	got := sqlgolden.Format(sql)
	require.Equal(t, strings.ReplaceAll(sql, " ", ""), strings.Join(strings.Fields(got), ""))
	require.Contains(t, got, "\n\tWHERE (id = $1")
	require.Contains(t, got, `"a AND b" = ' WHERE '`)
	require.Contains(t, got, "x IS DISTINCT FROM 'it")
	require.Contains(t, got, "\nendstate_b AS (SELECT 1)\nSELECT 1\nFROM endstate_a")
}

func TestForeignNamesAreFound(t *testing.T) {
	require.Empty(t, sqlgolden.Foreign(`WITH endstate_a AS MATERIALIZED (SELECT CAST(x AS text) AS endstate_x FROM "t" WHERE y), endstate_b (id) AS (SELECT 1) UPDATE "t" AS endstate_row SET x = 1`))
	for _, sql := range []string{`WITH events AS (SELECT 1) SELECT`, `WITH endstate_a AS (SELECT 1), events AS (SELECT 1) SELECT`, `WITH put (id) AS (SELECT 1) SELECT`,
		`SELECT x AS state FROM "t"`, `SELECT 1 FROM "t" AS r`, `UPDATE "s"."t" r SET x = 1`, `SELECT 1 FROM (SELECT 1) AS one`} {
		require.NotEmpty(t, sqlgolden.Foreign(sql), sql)
	}
}
