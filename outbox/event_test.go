package outbox_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// untouched is a transaction that nothing may be sent to.
type untouched struct{ t *testing.T }

func (u untouched) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	u.t.Error("something was sent")
	return pgconn.CommandTag{}, pgx.ErrTxClosed
}
func (u untouched) Query(context.Context, string, ...any) (pgx.Rows, error) {
	u.t.Error("something was sent")
	return nil, pgx.ErrTxClosed
}
func (u untouched) QueryRow(context.Context, string, ...any) pgx.Row {
	u.t.Error("something was sent")
	return nil
}
func (u untouched) Commit(context.Context) error   { return nil }
func (u untouched) Rollback(context.Context) error { return nil }

// F23: a bad event is refused before anything is sent, with the field's name, also when it is the last of many.
func TestPutNamesTheBadField(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	for _, tt := range []struct {
		name, says string
		change     func(*outbox.Event)
	}{
		{"no type", "Type is empty", func(e *outbox.Event) { e.Type = "" }},
		{"long type", "Type is 201 bytes long, the limit is 200", func(e *outbox.Event) { e.Type = long[:201] }},
		{"NUL in type", "Type contains a NUL byte", func(e *outbox.Event) { e.Type = "a\x00" }},
		{"invalid type", "Type is not valid UTF-8", func(e *outbox.Event) { e.Type = "\xff" }},
		{"no aggregate type", "AggregateType is empty", func(e *outbox.Event) { e.AggregateType = "" }},
		{"long aggregate type", "AggregateType is 201 bytes long", func(e *outbox.Event) { e.AggregateType = long[:201] }},
		{"NUL in aggregate type", "AggregateType contains a NUL byte", func(e *outbox.Event) { e.AggregateType = "\x00" }},
		{"no aggregate id", "AggregateID is empty", func(e *outbox.Event) { e.AggregateID = "" }},
		{"long aggregate id", "AggregateID is 1001 bytes long, the limit is 1000", func(e *outbox.Event) { e.AggregateID = long[:1001] }},
		{"invalid aggregate id", "AggregateID is not valid UTF-8", func(e *outbox.Event) { e.AggregateID = "a\xc3" }},
		{"long content type", "ContentType is 201 bytes long", func(e *outbox.Event) { e.ContentType = long[:201] }},
		{"NUL in content type", "ContentType contains a NUL byte", func(e *outbox.Event) { e.ContentType = "\x00" }},
		{"long dedup key", "DedupKey is 2001 bytes long, the limit is 2000", func(e *outbox.Event) { e.DedupKey = long[:2001] }},
		{"NUL in dedup key", "DedupKey contains a NUL byte", func(e *outbox.Event) { e.DedupKey = "k\x00" }},
		{"invalid dedup key", "DedupKey is not valid UTF-8", func(e *outbox.Event) { e.DedupKey = "\xff" }},
		{"NUL in header", `Headers ["h"] contains a NUL byte`, func(e *outbox.Event) { e.Headers = map[string]string{"h": "\x00"} }},
		{"invalid header", `Headers ["h"] is not valid UTF-8`, func(e *outbox.Event) { e.Headers = map[string]string{"h": "\xff"} }},
		{"NUL in header key", "Headers has a key that contains a NUL byte", func(e *outbox.Event) { e.Headers = map[string]string{"\x00": "v"} }},
		{"invalid header key", "Headers has a key that is not valid UTF-8", func(e *outbox.Event) { e.Headers = map[string]string{"\xff": "v"} }},
		{"not JSON", "Payload is not valid JSON", func(e *outbox.Event) { e.Payload = []byte("{") }},
		{"no JSON", "Payload is not valid JSON", func(e *outbox.Event) { e.Payload = nil }},
		{"two JSONs", "Payload is not valid JSON", func(e *outbox.Event) { e.Payload = []byte("{}{}") }},
		{"NUL in JSON", "Payload contains a NUL byte", func(e *outbox.Event) { e.Payload = []byte("\"\x00\"") }},
		{"deep JSON", "Payload is not valid JSON", func(e *outbox.Event) { e.Payload = []byte(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)) }},
		{"not vendor JSON", "Payload is not valid JSON", func(e *outbox.Event) { e.ContentType, e.Payload = "application/vnd.x+json; v=1", []byte("x") }},
		{"not JSON by another spelling", "Payload is not valid JSON", func(e *outbox.Event) { e.ContentType, e.Payload = "Application/JSON", []byte("x") }},
		{"invalid UTF-8 in JSON", "Payload is not valid UTF-8", func(e *outbox.Event) { e.Payload = []byte("\"\xff\"") }},
		{"long payload", "Payload is 1048577 bytes long, Writer.MaxPayload is 1048576", func(e *outbox.Event) { e.ContentType, e.Payload = "text/plain", make([]byte, 1<<20+1) }},
		{"long headers", `Headers is 16385 bytes long, the limit is 16384`, func(e *outbox.Event) { e.Headers = map[string]string{"h": strings.Repeat("x", 16<<10)} }},
		{"negative version", "SchemaVersion is -1", func(e *outbox.Event) { e.SchemaVersion = -1 }},
		{"large version", "SchemaVersion is 2147483648", func(e *outbox.Event) { e.SchemaVersion = 1 << 31 }},
		{"far future", "OccurredAt is in the year 10000", func(e *outbox.Event) { e.OccurredAt = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) }},
		{"far future, of UTC", "OccurredAt is in the year 10000", func(e *outbox.Event) {
			e.OccurredAt = time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -2*3600))
		}},
		{"far past, of UTC", "OccurredAt is in the year 0", func(e *outbox.Event) {
			e.OccurredAt = time.Date(1, 1, 1, 1, 0, 0, 0, time.FixedZone("", 2*3600))
		}},
		{"far past", "OccurredAt is in the year -5", func(e *outbox.Event) { e.OccurredAt = time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bad := event("completed", "k")
			tt.change(&bad)
			results, err := outbox.Put(t.Context(), untouched{t}, event("fine", ""), bad)
			require.ErrorIs(t, err, outbox.ErrInvalidEvent)
			require.ErrorContains(t, err, tt.says)
			require.Empty(t, results)
			require.Less(t, len(err.Error()), 500, "what is wrong is named, not repeated")
		})
	}
}

func TestPutAcceptsTheLongest(t *testing.T) {
	t.Parallel()
	each(t, []string{"pgx", "sqlite-wal"}, writer, func(t *testing.T, db *database) {
		// Random, so that an index entry doesn't fit because it was compressed.
		random := func(n int) string {
			var b strings.Builder
			for b.Len() < n {
				b.WriteString(strings.ReplaceAll(uuid.NewString(), "-", ""))
			}
			return b.String()[:n]
		}
		e := outbox.Event{
			AggregateType: random(outbox.MaxName), AggregateID: random(outbox.MaxID), Type: random(outbox.MaxName),
			ContentType: random(outbox.MaxName), DedupKey: random(outbox.MaxDedupKey), Payload: []byte(random(outbox.DefaultMaxPayload)),
		}
		require.True(t, db.Put(t, e)[0].Inserted)
		require.False(t, db.Put(t, e)[0].Inserted)
	})
}

func TestMaxPayload(t *testing.T) {
	t.Parallel()
	e := event("completed", "")
	e.ContentType, e.Payload = "text/plain", make([]byte, 11)
	_, err := outbox.Writer{MaxPayload: 10}.Put(t.Context(), untouched{t}, e)
	require.ErrorContains(t, err, "Payload is 11 bytes long, Writer.MaxPayload is 10")
	_, err = outbox.Writer{MaxPayload: 11}.Prepare(t.Context(), []outbox.Event{e})
	require.NoError(t, err)
	e.Payload = make([]byte, 2<<20)
	_, err = outbox.Writer{MaxPayload: 2 << 20}.Prepare(t.Context(), []outbox.Event{e})
	require.NoError(t, err)
}

func TestPutRefusesTwoOfOneKey(t *testing.T) {
	t.Parallel()
	many := make([]outbox.Event, 3000)
	for i := range many {
		many[i] = event("e", uuid.NewString())
	}
	for name, change := range map[string]func(a, b *outbox.Event){
		"DedupKey k": func(a, b *outbox.Event) { a.DedupKey, b.DedupKey = "k", "k" },
		"ID ":        func(a, b *outbox.Event) { a.ID = uuid.New(); b.ID = a.ID },
	} {
		events := append([]outbox.Event{}, many...)
		change(&events[0], &events[2500])
		_, err := outbox.Put(t.Context(), untouched{t}, events...)
		require.ErrorIs(t, err, outbox.ErrDuplicate)
		require.ErrorContains(t, err, "events 1 (\"e\") and 2501 (\"e\") have the same "+name)
	}
	// A dedup key that looks like an id is not one.
	id := uuid.New()
	a, b := event("a", ""), event("b", "ID "+id.String())
	a.ID = id
	_, err := outbox.Writer{}.Prepare(t.Context(), []outbox.Event{a, b})
	require.NoError(t, err)
}

func TestPrepareLeavesTheCallersEventsAlone(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 3, 4, 5, 6, 123456789, time.UTC)
	events := []outbox.Event{event("completed", "")}
	events[0].OccurredAt = at
	prepared, err := outbox.Writer{}.Prepare(t.Context(), events)
	require.NoError(t, err)
	require.Equal(t, uuid.Nil, events[0].ID)
	require.Equal(t, at, events[0].OccurredAt)
	require.NotEqual(t, uuid.Nil, prepared[0].ID)
	require.Equal(t, at.Truncate(time.Microsecond), prepared[0].OccurredAt, "what is prepared is what the table will have")
}

func TestWriterValidateNamesTheField(t *testing.T) {
	t.Parallel()
	require.NoError(t, outbox.Writer{}.Validate())
	for says, w := range map[string]outbox.Writer{
		"Writer.Table is 64 bytes long":      {Table: strings.Repeat("x", 64)},
		"Writer.Table is 52 bytes long":      {Table: strings.Repeat("x", 52)},
		"Writer.Table contains a NUL byte":   {Table: "\x00"},
		"Writer.Schema is 64 bytes long":     {Schema: strings.Repeat("x", 64)},
		"Writer.Schema is not valid UTF-8":   {Schema: "\xff"},
		"Writer.MaxPayload is -1":            {MaxPayload: -1},
		"Writer.Schema contains a NUL byte":  {Schema: "a\x00b", Table: "t"},
		"Writer.Table is not valid UTF-8":    {Table: "a\xffb"},
		"Writer.Table is 10240 bytes long":   {Table: strings.Repeat("x", 10<<10)},
		"Writer.Schema is 10240 bytes long,": {Schema: strings.Repeat("x", 10<<10)},
	} {
		err := w.Validate()
		require.ErrorIs(t, err, outbox.ErrConfig)
		require.ErrorContains(t, err, says)
		_, err = w.Put(t.Context(), untouched{t}, event("completed", ""))
		require.ErrorIs(t, err, outbox.ErrConfig)
		require.ErrorIs(t, w.Migrate(t.Context(), untouched{t}), outbox.ErrConfig)
	}
}

// A payload can't be allowed to be longer than a message to the database, as text of twice the length, may be.
func TestMaxPayloadIsBounded(t *testing.T) {
	t.Parallel()
	require.ErrorIs(t, outbox.Writer{MaxPayload: 256<<20 + 1}.Validate(), outbox.ErrConfig)
	require.NoError(t, outbox.Writer{MaxPayload: 256 << 20}.Validate())
}
