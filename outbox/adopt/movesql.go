package adopt

import (
	"context"
	"encoding/json"
	"fmt"
	"mime"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

func (s *moveSource) table() string  { return sqltx.Quote(s.cfg.Schema, s.cfg.Table) }
func (s *moveSource) outbox() string { return sqltx.Quote(s.cfg.Outbox.Schema, s.cfg.Outbox.Name()) }

// companion names the trigger and its function.
func (s *moveSource) companion(suffix string) string {
	return (&target{cfg: Config{Table: s.cfg.Table}}).companion(suffix)
}

func (s *moveSource) function() string { return sqltx.Quote(s.cfg.Schema, s.companion("moving")) }

// pending is the condition that a row isn't published.
func (s *moveSource) pending(prefix string) string {
	column := prefix + sqltx.Quote("", s.cfg.Published)
	switch {
	case s.cfg.PublishedValue != "":
		return column + "::text = " + sqltx.Literal(s.cfg.PendingValue)
	case s.types[s.cfg.Published] == "boolean":
		return column + " IS NOT TRUE"
	}
	return column + " IS NULL"
}

// published is what the column holds when a row is published, and unpublished what it holds before.
func (s *moveSource) published() string {
	kind := s.types[s.cfg.Published]
	switch {
	case s.cfg.PublishedValue != "":
		return sqltx.Literal(s.cfg.PublishedValue) + "::" + kind
	case kind == "boolean":
		return "true"
	case kind == "timestamp without time zone":
		return "clock_timestamp() AT TIME ZONE " + sqltx.Literal(s.cfg.TimeZone)
	}
	return "clock_timestamp()"
}

func (s *moveSource) unpublished() string {
	switch {
	case s.cfg.PublishedValue != "":
		return sqltx.Literal(s.cfg.PendingValue) + "::" + s.types[s.cfg.Published]
	case s.types[s.cfg.Published] == "boolean":
		return "false"
	}
	return "NULL"
}

// eventID is the id that a row's event has in the outbox: its own if that is a UUID, else one made of the table and its id, the
// same each time.
func (s *moveSource) eventID(prefix string) string {
	id := prefix + sqltx.Quote("", s.cfg.ID)
	made := fmt.Sprintf("md5(%s || %s::text)::uuid", sqltx.Literal(s.table()+"/"), id)
	switch s.types[s.cfg.ID] {
	case "uuid":
		return id
	case "smallint", "integer", "bigint":
		return made
	}
	return fmt.Sprintf("CASE WHEN %s ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN %[1]s::uuid ELSE %[2]s END", id, made)
}

func (s *moveSource) aggregateType(prefix string) string {
	if s.cfg.AggregateType == "" {
		return sqltx.Literal(s.cfg.AggregateName)
	}
	return "coalesce(" + prefix + sqltx.Quote("", s.cfg.AggregateType) + "::text, '')"
}

func (s *moveSource) aggregateID(prefix string) string {
	return "coalesce(" + prefix + sqltx.Quote("", s.cfg.Aggregate) + "::text, '')"
}

func (s *moveSource) payload(prefix string) string {
	column := prefix + sqltx.Quote("", s.cfg.Payload)
	if s.types[s.cfg.Payload] != "bytea" {
		column = "convert_to(" + column + "::text, 'UTF8')"
	}
	return "coalesce(" + column + ", ''::bytea)"
}

func (s *moveSource) time(prefix string) string {
	column := prefix + sqltx.Quote("", s.cfg.Time)
	if s.types[s.cfg.Time] == "timestamp without time zone" {
		column += " AT TIME ZONE " + sqltx.Literal(s.cfg.TimeZone)
	}
	return fmt.Sprintf("CASE WHEN isfinite(%[1]s) AND %[1]s BETWEEN '0001-01-01Z' AND '9999-12-31Z' THEN %[1]s ELSE clock_timestamp() END", column)
}

// headers are those of the row, as strings, and under "source-id" the id that the row had, where the event has another.
func (s *moveSource) headers(prefix string) string {
	own := "'{}'::jsonb"
	if s.cfg.Headers != "" {
		column := prefix + sqltx.Quote("", s.cfg.Headers) + "::jsonb"
		own = fmt.Sprintf("CASE jsonb_typeof(%[1]s) WHEN 'object' THEN (SELECT coalesce(jsonb_object_agg(key, coalesce(value, '')), '{}') FROM jsonb_each_text(%[1]s)) ELSE '{}' END", column)
	}
	if s.types[s.cfg.ID] == "uuid" {
		return own
	}
	return fmt.Sprintf("%s || jsonb_build_object('source-id', coalesce(%s::text, ''))", own, prefix+sqltx.Quote("", s.cfg.ID))
}

// insert takes rows over: of a relation with the table's columns, named by the prefix.
func (s *moveSource) insert(prefix, from string) string {
	columns, dedup := "", ""
	if s.cfg.DedupKey != "" {
		columns, dedup = ", dedup_key", ", "+prefix+sqltx.Quote("", s.cfg.DedupKey)+"::text"
	}
	partition := sqltx.Quote(s.cfg.Outbox.Schema, s.cfg.Outbox.Name()+"_partition")
	return fmt.Sprintf(`INSERT INTO %s (partition, id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at%s)
SELECT %s(%s, %s), %s, %[4]s, %[5]s, coalesce(%[7]s::text, ''), %[8]s, %[9]s, %[10]s, %[11]s%[12]s %[13]s ON CONFLICT DO NOTHING`,
		s.outbox(), columns, partition, s.aggregateType(prefix), s.aggregateID(prefix), s.eventID(prefix), prefix+sqltx.Quote("", s.cfg.Type),
		s.payload(prefix), sqltx.Literal(s.cfg.ContentType), s.headers(prefix), s.time(prefix), dedup, from)
}

func (s *moveSource) order(prefix string) string {
	return prefix + sqltx.Quote("", s.cfg.Order) + ", " + prefix + sqltx.Quote("", s.cfg.ID)
}

// batch moves the next events, whose rows it waits for: a relay that holds them publishes them, and they are no longer pending.
func (s *moveSource) batch() string {
	return fmt.Sprintf(`WITH endstate_next AS MATERIALIZED (SELECT * FROM %[1]s WHERE %[2]s ORDER BY %[3]s LIMIT %[4]d FOR UPDATE),
endstate_moved AS (%[5]s)
UPDATE %[1]s SET %[6]s = %[7]s WHERE %[8]s IN (SELECT %[8]s FROM endstate_next) AND %[2]s`,
		s.table(), s.pending(""), s.order(""), s.cfg.Batch, s.insert("n.", "FROM endstate_next n ORDER BY "+s.order("n.")), sqltx.Quote("", s.cfg.Published), s.published(), sqltx.Quote("", s.cfg.ID))
}

// trigger has writers' transactions move what they write, once nothing can keep the row out of the table any more.
func (s *moveSource) trigger() []string {
	return []string{
		fmt.Sprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS $endstate$BEGIN\n\t%s;\n\tUPDATE %s SET %s = %s WHERE %[6]s = NEW.%[6]s;\n\tRETURN NULL;\nEND$endstate$",
			s.function(), s.insert("NEW.", ""), s.table(), sqltx.Quote("", s.cfg.Published), s.published(), sqltx.Quote("", s.cfg.ID)),
		s.createTrigger(),
	}
}

func (s *moveSource) createTrigger() string {
	return fmt.Sprintf("CREATE TRIGGER %s AFTER INSERT ON %s FOR EACH ROW WHEN (%s) EXECUTE FUNCTION %s()", sqltx.Quote("", s.companion("moving")), s.table(), s.pending("NEW."), s.function())
}

func (s *moveSource) dropTrigger() []string {
	return []string{
		fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", sqltx.Quote("", s.companion("moving")), s.table()),
		"DROP FUNCTION IF EXISTS " + s.function() + "()",
	}
}

func (s *moveSource) moving(ctx context.Context, q pgx.Tx) (there bool, err error) {
	err = q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = $1 AND tgname = $2)", s.oid, s.companion("moving")).Scan(&there)
	return there, err
}

func (s *moveSource) steps() []string {
	return []string{
		fmt.Sprintf("INSERT INTO %s … SELECT … FROM %s WHERE %s …; UPDATE %[2]s SET %[4]s = %[5]s …; -- in batches of %[6]d", s.outbox(), s.table(), s.pending(""), sqltx.Quote("", s.cfg.Published), s.published(), s.cfg.Batch),
		fmt.Sprintf("LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE; -- and the rest", s.table()),
		s.createTrigger() + "; -- moves what is written from now on",
	}
}

// checkPending reads every pending event as it would be in the outbox, and says which ones can't be there.
func (s *moveSource) checkPending(ctx context.Context, q pgx.Tx) (n int64, err error) {
	media, _, err := mime.ParseMediaType(s.cfg.ContentType)
	if err != nil {
		return 0, fmt.Errorf("%w: MoveConfig.ContentType: %w", ErrConfig, err)
	}
	parse := (media == "application/json" || strings.HasSuffix(media, "+json")) && !strings.HasPrefix(s.types[s.cfg.Payload], "json")
	most := s.cfg.Outbox.MaxPayload
	if most == 0 {
		most = outbox.DefaultMaxPayload
	}
	payload := "''::bytea"
	if parse {
		payload = s.payload("t.")
	}
	rows, err := q.Query(ctx, fmt.Sprintf("SELECT coalesce(t.%s::text, ''), %s, %s, coalesce(t.%s::text, ''), octet_length(%s), %s FROM %s t WHERE %s",
		sqltx.Quote("", s.cfg.ID), s.aggregateType("t."), s.aggregateID("t."), sqltx.Quote("", s.cfg.Type), s.payload("t."), payload, s.table(), s.pending("t.")))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	for rows.Next() {
		var id, aggregateType, aggregateID, kind string
		var size int
		var body []byte
		if err := rows.Scan(&id, &aggregateType, &aggregateID, &kind, &size, &body); err != nil {
			return n, err
		}
		n++
		why := ""
		switch {
		case id == "":
			why = "has no id"
		case kind == "" || len(kind) > outbox.MaxName:
			why = fmt.Sprintf("has a type of %d bytes; it goes from 1 to %d", len(kind), outbox.MaxName)
		case aggregateType == "" || len(aggregateType) > outbox.MaxName:
			why = fmt.Sprintf("has an aggregate type of %d bytes; it goes from 1 to %d", len(aggregateType), outbox.MaxName)
		case aggregateID == "" || len(aggregateID) > outbox.MaxID:
			why = fmt.Sprintf("has an aggregate's id of %d bytes; it goes from 1 to %d", len(aggregateID), outbox.MaxID)
		case size > most:
			why = fmt.Sprintf("has a payload of %d bytes; Outbox.MaxPayload is %d", size, most)
		case parse && !json.Valid(body):
			why = "has a payload that is not valid JSON; say what it is by MoveConfig.ContentType"
		}
		if why != "" {
			return n, fmt.Errorf("%w: the event of %s with id %q %s", ErrSchema, s.table(), id, why)
		}
	}
	return n, rows.Err()
}
