package outbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// store is what a relay asks of its database. What is the same on both is tables; postgres and sqlite add what isn't.
//
// An epoch that is no longer alive gets nothing and changes nothing.
type store interface {
	// register takes a lease and returns its epoch.
	register(ctx context.Context, name string, ttl time.Duration) (int64, error)
	// renew prolongs a lease; alive is false when it is gone.
	renew(ctx context.Context, epoch int64, ttl time.Duration, published int64, rate float64) (alive bool, err error)
	// release ends a lease, with nothing in flight, and gives its shards back.
	release(ctx context.Context, epoch int64) error
	// reap ends the leases that have expired, and returns whose they were.
	reap(ctx context.Context) ([]string, error)
	// holdings tells how the shards are spread.
	holdings(ctx context.Context, epoch int64) (holdings, error)
	// take takes up to n free shards, and give gives n back.
	take(ctx context.Context, epoch int64, n int) error
	give(ctx context.Context, epoch int64, n int) error

	// read returns events that may be published now, in the order of their aggregates, and records that they are in flight.
	read(ctx context.Context, epoch int64, q reading) ([]row, error)
	// mark records what became of a batch, and that nothing is in flight.
	mark(ctx context.Context, epoch int64, o *outcome) (alive bool, err error)
	// trust ends the suspicion against the shards of a relay.
	trust(ctx context.Context, epoch int64) error
	// nextDue returns when the next failed event is due; any is false when no event waits.
	nextDue(ctx context.Context, epoch int64) (wait time.Duration, any bool, err error)
	// free lets events go on that wait behind an earlier one that is no longer there.
	free(ctx context.Context, epoch int64) error
}

// holdings is how the shards are spread.
type holdings struct {
	relays, owned, suspect, unowned int
}

// lane is which events a reading is after.
type lane int

const (
	ready   lane = iota // those that never failed, by shard
	next                // ready ones of all shards, by seq; on PostgreSQL only
	due                 // those that failed, when their time has come, and those behind them
	alone               // as due, but one that has killed a relay: one at a time, and nothing behind it
	suspect             // ready ones among those that were in flight when a relay died: one at a time
	suspectDue
)

// reading is what to read.
type reading struct {
	lane    lane
	limit   int
	perTurn int   // how many of one shard or aggregate
	from    int   // the shard to begin with
	after   int64 // in the lane next: the seqs to look for are higher than this,
	until   int64 // and not higher than this
	ordered bool
}

// row is an event as a relay reads it.
type row struct {
	Event
	seq      int64
	shard    int
	attempts int
	crashes  int
	behind   bool // an earlier event of its aggregate waits
	snapshot snapshot
	cut      bool // what was read behind it is dropped
}

// snapshot is when a row was read, on PostgreSQL: the oldest transaction that hadn't ended, and the reading's own, which is later
// than all that had an id.
type snapshot struct{ oldest, own int64 }

// rowColumns are the columns of a row, but for behind.
const rowColumns = `seq, shard, attempts, crashes, id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version`

// outcome is what became of a batch.
type outcome struct {
	published []int64
	failed    []failure
	held      []int64     // to wait behind an earlier event
	promoted  []aggregate // whose next waiting event is due now
}

// events is how many events the outcome tells of.
func (o *outcome) events() int { return len(o.published) + len(o.failed) + len(o.held) }

// json returns the failures and the promoted aggregates as JSON arrays.
func (o *outcome) json() (failed, promoted string, err error) {
	f, err1 := json.Marshal(append([]failure{}, o.failed...))
	p, err2 := json.Marshal(append([]aggregate{}, o.promoted...))
	return string(f), string(p), errors.Join(err1, err2)
}

// failure is one event that wasn't published.
type failure struct {
	Seq     int64   `json:"seq"`
	Counted int     `json:"counted"` // 1, or 0 if the event wasn't the cause
	Error   string  `json:"error"`
	Dead    bool    `json:"dead"`
	Delay   float64 `json:"delay"` // in seconds
}

// aggregate is an aggregate, with the last of its events that the batch was done with.
type aggregate struct {
	Type  string `json:"aggregate_type"`
	ID    string `json:"aggregate_id"`
	After int64  `json:"seq"`
}

// batchBytes bounds what a relay holds in memory of one batch.
const batchBytes = 8 << 20

// collect reads rows, and stops to keep them when their payloads exceed batchBytes: they are read again.
func collect(rows pgx.Rows, d sqltx.Dialect, err error) ([]row, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var r row
	var id, headers, dedup []byte
	var at string
	occurred := any(&r.OccurredAt)
	if d == sqltx.SQLite {
		occurred = &at
	}
	dest := []any{&r.seq, &r.shard, &r.attempts, &r.crashes, &id, &r.AggregateType, &r.AggregateID, &r.Type, &r.Payload, &r.ContentType,
		&headers, occurred, &dedup, &r.SchemaVersion, &r.behind}
	if d == sqltx.Postgres {
		dest = append(dest, &r.snapshot.oldest, &r.snapshot.own)
	}
	var list []row
	for size := 0; rows.Next(); {
		r.Payload, r.Headers = nil, nil
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		if size += len(r.Payload); size > batchBytes && len(list) > 0 {
			list[len(list)-1].cut = true
			continue // what remains is dropped as it comes
		}
		if r.ID, err = uuid.ParseBytes(id); err != nil {
			return nil, err
		}
		r.DedupKey = string(dedup)
		if !bytes.Equal(headers, noHeaders) {
			if err := json.Unmarshal(headers, &r.Headers); err != nil {
				return nil, err
			}
		}
		if d == sqltx.SQLite {
			if r.OccurredAt, err = time.Parse(time.RFC3339Nano, at); err != nil {
				return nil, err
			}
		}
		r.OccurredAt = r.OccurredAt.UTC()
		list = append(list, r)
	}
	return list, rows.Err()
}

var noHeaders = []byte("{}")

// numbers writes numbers as PostgreSQL's array or as JSON, which every driver can send.
func numbers(d sqltx.Dialect, list []int64) string {
	begin, end := byte('{'), byte('}')
	if d == sqltx.SQLite {
		begin, end = '[', ']'
	}
	text := append(make([]byte, 0, 2+8*len(list)), begin)
	for i, n := range list {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, n, 10)
	}
	return string(append(text, end))
}
