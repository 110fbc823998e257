package adopt_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/outbox/adopt"
)

// Of each pair the published one stays, whatever says which that is; in each pair it is the later one.
func TestAdoptKeepsThePublishedOne(t *testing.T) {
	t.Parallel()
	const when, longAgo = "'2025-11-15 12:00'", "'1970-01-01'"
	for name, tt := range map[string]struct {
		column    string // the published column's definition
		no, yes   string // its values
		condition string
	}{
		"nullable time":              {"timestamptz", "NULL", when, ""},
		"nullable date":              {"date", "NULL", when, ""},
		"domain over a time":         {"moment", "NULL", when, ""},
		"boolean":                    {"boolean NOT NULL", "false", "true", ""},
		"nullable boolean":           {"boolean", "NULL", "true", ""},
		"boolean that says pending":  {"boolean NOT NULL", "true", "false", "published_at = false"},
		"status text":                {"text NOT NULL", "'PENDING'", "'SENT'", "published_at = SENT"},
		"status text with a quote":   {"text NOT NULL", `'it''s \ pending'`, `'it''s \ sent'`, `published_at = 'it''s \ sent'`},
		"several states":             {"varchar(7) NOT NULL", "'PENDING'", "'ACKED'", "published_at in ('SENT', ACKED)"},
		"a state that isn't":         {"char(8) NOT NULL", "'PENDING'", "'SENT'", "published_at NOT IN (PENDING, FAILED)"},
		"beyond the column's length": {"varchar(4) NOT NULL", "'SENT'", "'ACKD'", "published_at <> SENT"},
		"smallint":                   {"smallint NOT NULL", "0", "1", "published_at = 1"},
		"smallint, unequal":          {"smallint NOT NULL", "0", "7", "published_at != 0"},
		"nullable number":            {"bigint", "NULL", "1763208000", "published_at IS NOT NULL"},
		"NULL when it is published":  {"timestamptz DEFAULT now()", "now()", "NULL", "published_at IS NULL"},
		"bit":                        {"bit NOT NULL", "B'0'", "B'1'", "published_at = 1"},
		"enum":                       {"state NOT NULL", "'pending'", "'sent'", "published_at = sent"},
		"uuid":                       {"uuid", "NULL", "gen_random_uuid()", "published_at IS NOT NULL"},
		"epoch":                      {"timestamptz NOT NULL DEFAULT 'epoch'", "'1970-01-01 00:00+00'", when, "published_at <> 1970-01-01"},
		"zero time":                  {"timestamp NOT NULL", "'0001-01-01'", when, "published_at <> '0001-01-01 00:00:00'"},
		"end of time":                {"timestamptz NOT NULL", "'infinity'", when, "published_at <> infinity"},
		"epoch by default":           {"date NOT NULL DEFAULT '1970-01-01'", longAgo, when, `"published_at" <> '1970-01-01'`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			// A condition's times mean the same wherever the sessions' clocks are set.
			exec(t, pool, "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Pacific/Auckland''', current_database()); END$$")
			pool.Reset()
			exec(t, pool, "CREATE DOMAIN moment AS timestamptz", "CREATE TYPE state AS ENUM ('pending', 'sent')",
				"CREATE TABLE event_outbox (id text PRIMARY KEY, aggregate_id text, event_type text, created_at timestamptz, published_at "+tt.column+")",
				fmt.Sprintf(`INSERT INTO event_outbox VALUES ('a1', 'a', 'done', '2025-11-15 12:00', %[1]s), ('a2', 'a', 'done', '2025-11-15 12:01', %[2]s),
	('b1', 'b', 'done', '2025-11-15 12:02', %[1]s), ('b2', 'b', 'done', '2025-11-15 12:01', %[1]s)`, tt.no, tt.yes))
			before := list(t, pool, original)
			a := newAdoption(t, pool, adopt.Config{Published: tt.condition})
			plan, err := a.Plan(t.Context())
			require.NoError(t, err)
			require.Equal(t, []adopt.Choice{
				{Aggregate: "a", Type: "done", Stays: "a2", Why: "the only one that was published", Go: []string{"a1"}, Events: 2, Published: 1},
				{Aggregate: "b", Type: "done", Stays: "b2", Why: "the oldest: none was published", Go: []string{"b1"}, Events: 2},
			}, plan.Choices)
			require.Zero(t, plan.Published)
			r, err := a.Apply(t.Context())
			require.NoError(t, err)
			require.EqualValues(t, 2, r.Moved)
			require.Equal(t, []string{"a2", "b2"}, list(t, pool, "SELECT id FROM event_outbox ORDER BY id"))
			_, err = a.Apply(t.Context())
			require.NoError(t, err)
			_, err = a.Undo(t.Context())
			require.NoError(t, err)
			require.Equal(t, before, list(t, pool, original))
		})
	}
}

// What can't be judged is refused before anything is touched, and the error says what to write.
func TestAdoptRefusesWhatItCannotJudge(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ column, value, condition, says string }{
		"smallint":             {"smallint NOT NULL", "1", "", `column "published_at" is smallint NOT NULL`},
		"nullable smallint":    {"smallint", "1", "", `column "published_at" is smallint:`},
		"status":               {"text NOT NULL", "'SENT'", "", "is text NOT NULL"},
		"nullable status":      {"text", "'SENT'", "", "is text:"},
		"bit":                  {"bit(1) NOT NULL", "B'1'", "", "is bit(1) NOT NULL"},
		"enum":                 {"state", "'sent'", "", "is state:"},
		"time of the day":      {"time", "'12:00'", "", "is time without time zone:"},
		"time that is there":   {"timestamptz NOT NULL", "now()", "", "is timestamp with time zone NOT NULL"},
		"domain that is there": {"moment", "now()", "", "is moment NOT NULL"},
		"time with a default":  {"timestamptz DEFAULT 'epoch'", "now()", "", "with a default"},
		"epoch":                {"timestamptz", "'epoch'", "", "no time at which an event was published"},
		"zero time":            {"timestamp", "'0001-01-01'", "", "no time at which an event was published"},
		"end of time":          {"date", "'infinity'", "", "no time at which an event was published"},
		"time to come":         {"timestamptz", "'9999-12-31'", "", "no time at which an event was published"},
		"misspelt":             {"text", "'SENT'", "published_at = SEND", `no row of "public"."event_outbox" has "published_at" = SEND`},
		"no such value":        {"state", "'sent'", "published_at = acked", "can't be asked of column"},
		"no number":            {"smallint", "1", "published_at = yes", "can't be asked of column"},
		"no equality":          {"json", "'1'", "published_at = 1", "can't be asked of column"},
		"no such column":       {"text", "'SENT'", "status = SENT", `has no column "status"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := dbtest.Pool(t)
			exec(t, pool, "CREATE DOMAIN moment AS timestamptz NOT NULL", "CREATE TYPE state AS ENUM ('pending', 'sent')",
				"CREATE TABLE event_outbox (id text PRIMARY KEY, aggregate_id text, event_type text, created_at timestamptz, published_at "+tt.column+")",
				fmt.Sprintf("INSERT INTO event_outbox VALUES ('a1', 'a', 'done', '2025-11-15 12:00', %[1]s), ('a2', 'a', 'done', '2025-11-15 12:01', %[1]s)", tt.value))
			a := newAdoption(t, pool, adopt.Config{Published: tt.condition})
			_, err := a.Plan(t.Context())
			require.ErrorIs(t, err, adopt.ErrSchema)
			require.ErrorContains(t, err, tt.says)
			_, err = a.Apply(t.Context())
			require.ErrorIs(t, err, adopt.ErrSchema)
			require.ErrorContains(t, err, tt.says)
			require.Empty(t, left(t, pool), "nothing was begun")
			require.Len(t, list(t, pool, original), 2)

			// That nothing was published can be said.
			_, err = newAdoption(t, pool, adopt.Config{NoPublished: true}).Apply(t.Context())
			require.NoError(t, err)
			// Now there is nothing left to judge.
			if tt.condition == "" {
				_, err = a.Plan(t.Context())
				require.NoError(t, err)
			}
		})
	}
	_, err := newAdoption(t, dbtest.Pool(t), adopt.Config{}).Apply(t.Context())
	require.ErrorIs(t, err, adopt.ErrSchema)
	_, err = adopt.New(dbtest.Pool(t), adopt.Config{Published: "status = SENT OR true"})
	require.ErrorIs(t, err, adopt.ErrConfig)
}

// A plan shows what stays of each aggregate, the largest first, and no more than it is asked for.
func TestPlanShowsWhatStays(t *testing.T) {
	t.Parallel()
	pool := dbtest.Pool(t)
	exec(t, pool, `CREATE TABLE event_outbox (endstate_n text, n bigint GENERATED ALWAYS AS IDENTITY, part int DEFAULT 1, aggregate_id text, event_type text, created_at timestamptz, published_at timestamptz, PRIMARY KEY (n, part))`,
		`INSERT INTO event_outbox (aggregate_id, event_type, created_at, published_at) SELECT 'loop', 'done', now(), CASE WHEN n IN (7, 9) THEN now() - n * interval '1 hour' END FROM generate_series(1, 30) n`,
		`INSERT INTO event_outbox (aggregate_id, event_type, created_at) SELECT 'few' || n % 3, 'done', now() - n * interval '1 hour' FROM generate_series(1, 6) n`)
	exec(t, pool, "ALTER TABLE event_outbox DROP COLUMN endstate_n")
	plan, err := newAdoption(t, pool, adopt.Config{Aggregate: []string{"part", "aggregate_id"}, Show: 2}).Plan(t.Context())
	require.NoError(t, err)
	require.Len(t, plan.Choices, 2)
	require.Equal(t, "9/1", plan.Choices[0].Stays)
	require.Equal(t, "1/loop", plan.Choices[0].Aggregate)
	require.Equal(t, "published first, of 2 that were", plan.Choices[0].Why)
	require.Len(t, plan.Choices[0].Go, 10)
	require.EqualValues(t, 30, plan.Choices[0].Events)
	require.Equal(t, adopt.Choice{Aggregate: "1/few0", Type: "done", Stays: "36/1", Why: "the oldest: none was published", Go: []string{"33/1"}, Events: 2}, plan.Choices[1])
	require.Equal(t, "published_at", plan.Condition)
	plan, err = newAdoption(t, pool, adopt.Config{Show: -1, NoPublished: true}).Plan(t.Context())
	require.NoError(t, err)
	require.Empty(t, plan.Choices)
}
