package audit_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox/audit"
)

// Names and ids may be anything that a database can hold.
func TestHostileNames(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		quote := func(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
		cfg := audit.Config{Table: `Evil".tbl; DROP TABLE x--`, Aggregate: []string{`Agg'"\`, "second id"}, Type: "SELECT", Time: "größe $1 ?", Published: "%s"}
		text, time := "text", "datetime"
		if db.postgres() {
			time = "timestamp"
			cfg.Schema = `My "Schema"`
			db.exec(t, "CREATE SCHEMA "+quote(cfg.Schema))
		}
		table := quote(cfg.Table)
		if cfg.Schema != "" {
			table = quote(cfg.Schema) + "." + table
		}
		db.exec(t, fmt.Sprintf("CREATE TABLE %s (%s text, %s integer, %s text, %s %s, %s %s)", table, quote(cfg.Aggregate[0]), quote(cfg.Aggregate[1]), quote(cfg.Type),
			quote(cfg.Time), text, quote(cfg.Published), time))
		ids := []string{`it's "quoted" \`, "日本語 \u202e", "new\nline", "", strings.Repeat("x", 5000)}
		for _, id := range ids {
			for range 2 {
				db.insert(t, "INSERT INTO "+table+" VALUES ($1, 7, $2, '2025-11-15 12:00:00', NULL)", []any{id, "tÿpe'"})
			}
			db.insert(t, "INSERT INTO "+table+" VALUES ($1, 8, $2, '2025-11-15 12:00:00', NULL)", []any{id, "tÿpe'"}) // another aggregate
		}
		r := db.run(t, cfg)
		require.EqualValues(t, len(ids), r.Duplicates)
		require.EqualValues(t, 2*len(ids), r.Aggregates)
		var found []string
		for _, a := range r.Worst {
			require.Equal(t, "tÿpe'", a.Type)
			found = append(found, strings.TrimSuffix(a.ID, "/7"))
		}
		require.ElementsMatch(t, ids, found)
	})
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *database) {
		db.outbox(t)
		db.exec(t, "CREATE TABLE odd (aggregate_id text, event_type text, created_at text, yes boolean)")
		for want, cfg := range map[string]audit.Config{
			`table "nowhere" does not exist`:                         {Table: "nowhere"},
			`table "event_outbox" has no column "id"`:                {Aggregate: []string{"id"}},
			`table "event_outbox" has no column "Event_Type"`:        {Type: "Event_Type"},
			`table "event_outbox" has no column "sent"`:              {Published: "sent"},
			`table "odd" has no column "published_at"`:               {Table: "odd"},
			`table "event_outbox" has no column "createdAt"`:         {Time: "createdAt"},
			`table "event_outbox" has no column "when, created_at "`: {Time: "when, created_at "},
		} {
			report, err := db.try(t.Context(), cfg)
			require.ErrorIs(t, err, audit.ErrSchema, want)
			require.ErrorContains(t, err, want)
			require.Nil(t, report)
		}
		if db.postgres() {
			_, err := db.try(t.Context(), audit.Config{Schema: "nowhere"})
			require.ErrorIs(t, err, audit.ErrSchema)
			require.ErrorContains(t, err, `table "nowhere"."event_outbox" does not exist`)
			_, err = db.try(t.Context(), audit.Config{Table: "odd", NoPublished: true, Time: "yes"})
			require.ErrorIs(t, err, audit.ErrSchema)
			require.ErrorContains(t, err, `column "yes" holds no time`)
		}
	})
}

func TestConfig(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64)
	for want, cfg := range map[string]audit.Config{
		"Table is 64 bytes long":            {Table: long},
		"Schema is 64 bytes long":           {Schema: long},
		"Aggregate is empty":                {Aggregate: []string{"id", ""}},
		"Type contains a NUL byte":          {Type: "a\x00"},
		"Time is not valid UTF-8":           {Time: "\xff"},
		"Published is 64 bytes long":        {Published: long},
		"EventTypes: \"a\\x00\" contains a": {EventTypes: []string{"a\x00"}},
		"ends with a backslash":             {EventTypes: []string{`a\\\`}},
		"Until is not after Since":          {Since: start, Until: start},
		"Window is negative":                {Window: -1},
		"Timeout is negative":               {Timeout: -1},
	} {
		_, err := audit.Run(t.Context(), nil, cfg)
		require.ErrorIs(t, err, audit.ErrConfig, want)
		require.ErrorContains(t, err, want)
	}
	_, err := audit.Run(t.Context(), nil, audit.Config{})
	require.ErrorContains(t, err, "pool is nil")
	_, err = audit.RunSQL(t.Context(), nil, audit.Config{})
	require.ErrorContains(t, err, "db is nil")
}
