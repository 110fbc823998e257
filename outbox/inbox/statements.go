package inbox

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// statements are a Table's SQL for one dialect.
type statements struct {
	table   string
	dialect sqltx.Dialect

	insert string // records a delivery as handled, unless another one has the key's lock or its row
	lock   string // tries to lock a key
	lookup string // the rows of the key and, where keys aren't ids, of the event's id
	keep   string // sets the value of a delivery that was inserted
	handle string // records a delivery as handled whose key has a row that says otherwise
	must   string // handle, raising a signal, its last argument, if it records nothing; PostgreSQL
	fail   string // counts a failed attempt
	list   string // dead letters
	one    string // one of them
	drop   string // deletes one
	clean  string // deletes a batch of old records
}

func newStatements(cfg *TableConfig, d sqltx.Dialect) *statements {
	s := &statements{table: sqltx.Quote(cfg.Schema, cfg.Table), dialect: d}
	const columns = `"key", coalesce(CAST(event_id AS text), "key"), digest, state, result`
	s.lookup = s.text(`SELECT ` + columns + ` FROM {table} WHERE consumer = {1:text} AND "key" = {2:text}`)
	if cfg.Key != nil {
		s.lookup += s.text(` UNION ALL SELECT ` + columns + ` FROM {table} WHERE consumer = {1:text} AND event_id = {3:uuid} AND "key" <> {2:text}`)
	}
	s.keep = s.text(`UPDATE {table} SET result = {3:bytea} WHERE consumer = {1:text} AND "key" = {2:text}`)
	s.handle = s.text(`INSERT INTO {table} AS endstate_row (consumer, "key", event_id, digest, result, state, attempts, at)
VALUES ({1:text}, {2:text}, {3:uuid}, {4:bytea}, {5:bytea}, 'handled', 1, {now})
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, result = excluded.result,
	state = 'handled', attempts = endstate_row.attempts + 1, at = excluded.at, event = NULL, error = NULL WHERE endstate_row.state <> 'handled'`)
	s.fail = s.text(`INSERT INTO {table} AS endstate_row (consumer, "key", event_id, digest, event, error, state, attempts, at)
VALUES ({1:text}, {2:text}, {3:uuid}, {4:bytea}, {5:bytea}, {6:text}, CASE WHEN {7:int4} <= 1 THEN 'dead' ELSE 'failed' END, 1, {now})
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, event = excluded.event, error = excluded.error,
	state = CASE WHEN endstate_row.state = 'dead' OR endstate_row.attempts + 1 >= {7:int4} THEN 'dead' ELSE 'failed' END, attempts = endstate_row.attempts + 1, at = excluded.at
	WHERE endstate_row.state <> 'handled'
RETURNING state, attempts`)
	const letter = `SELECT "key", event, coalesce(error, ''), attempts, at FROM {table} WHERE consumer = {1:text} AND state = 'dead' `
	s.list = s.text(letter + `ORDER BY at, "key" LIMIT {2:int4}`)
	s.one = s.text(letter + `AND "key" = {2:text}`)
	s.drop = s.text(`DELETE FROM {table} WHERE consumer = {1:text} AND state = 'dead' AND "key" = {2:text}`)
	const insert = `INSERT INTO {table} (consumer, "key", event_id, digest, state, attempts, at)
SELECT {1:text}, {2:text}, {3:uuid}, {4:bytea}, 'handled', 1, {now} WHERE `
	switch d {
	case sqltx.Postgres:
		// The table's oid keeps apart those of one name in several schemas.
		try := `pg_try_advisory_xact_lock({5:int8} # ` + sqltx.Literal(s.table) + `::regclass::oid::int8)`
		s.insert = s.text(insert + try + ` ON CONFLICT DO NOTHING`)
		s.lock = s.text("SELECT " + strings.Replace(try, "{5", "{1", 1))
		s.must = "WITH endstate_done AS (" + s.handle + "\nRETURNING 1) SELECT " + sqltx.Unless("coalesce((SELECT 'true' FROM endstate_done), "+s.text("{6:text}")+")")
		// SKIP LOCKED, so that several clean-ups share the work, and none waits for a delivery.
		s.clean = s.text(`DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table}
	WHERE consumer = {1:text} AND state <> 'dead' AND at < clock_timestamp() - make_interval(secs => {2:float8}) ORDER BY at LIMIT {3:int4} FOR UPDATE SKIP LOCKED))`)
	case sqltx.SQLite:
		// Each takes SQLite's one write lock, whether it writes or not.
		s.insert = s.text(insert + `true ON CONFLICT DO NOTHING`)
		s.lock = s.text(`UPDATE {table} SET attempts = attempts WHERE 0`)
		s.clean = s.text(`DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table}
	WHERE consumer = {1:text} AND state <> 'dead' AND at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || {2:float8} || ' seconds') ORDER BY at LIMIT {3:int4})`)
	}
	return s
}

// text fills in the table's name, the clock, and the parameters, which PostgreSQL gets with their types.
func (s *statements) text(template string) string {
	pairs := []string{"{table}", s.table, "{now}", s.dialect.Clock()}
	for n := 1; n <= 7; n++ {
		for _, t := range []string{"text", "uuid", "bytea", "int4", "int8", "float8"} {
			param := fmt.Sprintf("?%d", n)
			if s.dialect == sqltx.Postgres {
				param = fmt.Sprintf("$%d::%s", n, t)
			}
			pairs = append(pairs, fmt.Sprintf("{%d:%s}", n, t), param)
		}
	}
	return strings.NewReplacer(pairs...).Replace(template)
}

// lockKey is the advisory lock of a delivery's key. Two keys of one lock only wait for one another.
func (d *delivery) lockKey() int64 {
	sum := sha256.Sum256([]byte("endstate inbox\x00" + d.consumer + "\x00" + d.key))
	return int64(binary.BigEndian.Uint64(sum[:]))
}

// recorded are the arguments that name a delivery: all of insert's but the lock, and the first ones of handle and fail.
func (d *delivery) recorded() []any {
	var id *string
	if !d.byID {
		text := d.event.ID.String()
		id = &text
	}
	return []any{d.consumer, d.key, id, d.digest}
}

// looked are the arguments of lookup.
func (d *delivery) looked() []any {
	if d.byID {
		return []any{d.consumer, d.key}
	}
	return []any{d.consumer, d.key, d.event.ID.String()}
}
