package adopt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Result is what a run did.
type Result struct {
	Table   string `json:"table"`
	Backup  string `json:"backup_table"`
	Moved   int64  `json:"moved"`  // rows that this run moved into the backup table, or Undo out of it
	Backed  int64  `json:"backed"` // rows that are in the backup table now
	Index   string `json:"index"`  // the unique index's name; after Undo, that of the one that is gone
	Columns int    `json:"columns_added"`
}

// Apply adopts the table. It may be run again after it failed or was killed, and is done when it returns nil.
func (a *Adoption) Apply(ctx context.Context) (*Result, error) {
	s, err := a.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: %w", err)
	}
	defer s.close(ctx)
	result, err := s.apply(ctx)
	if err != nil {
		return nil, fmt.Errorf("adopt: %s: %w", s.table(), err)
	}
	return result, nil
}

func (s *session) apply(ctx context.Context) (*Result, error) {
	r := &Result{Table: s.table(), Backup: s.backup(), Index: sqltx.Quote(s.cfg.Schema, s.unique())}
	if err := s.checkRemovable(ctx, s.Conn); err != nil {
		return nil, err
	}
	if err := s.judge(ctx, s.Conn); err != nil {
		return nil, err
	}
	if err := s.prepare(ctx); err != nil {
		return nil, err
	}
	if r.Columns = len(s.missing()); r.Columns > 0 {
		if err := s.step(ctx, "add columns"); err != nil {
			return nil, err
		}
		if err := s.patiently(ctx, func() error { _, err := s.Exec(ctx, s.addColumns()); return err }); err != nil {
			return nil, err
		}
	}
	// Whatever the steps did before, what follows looks at what is there.
	unique, err := s.isUnique(ctx, s.Conn)
	if err != nil {
		return nil, err
	}
	if !unique {
		if err := s.makeUnique(ctx, r); err != nil {
			return nil, err
		}
	}
	if err := s.step(ctx, "clean up"); err != nil {
		return nil, err
	}
	if err := s.cleanUp(ctx); err != nil {
		return nil, err
	}
	if err := s.step(ctx, "done"); err != nil {
		return nil, err
	}
	return r, s.QueryRow(ctx, "SELECT count(*) FROM "+s.backup()).Scan(&r.Backed)
}

// prepare makes the log's entry and the backup table, and gives that the columns that the table has got since.
func (s *session) prepare(ctx context.Context) error {
	return s.locked(ctx, func(tx pgx.Tx) error {
		for _, statement := range []string{
			"CREATE TABLE IF NOT EXISTS " + s.log() + " (target text PRIMARY KEY, config text NOT NULL, step text NOT NULL, started_at timestamptz NOT NULL DEFAULT clock_timestamp(), updated_at timestamptz NOT NULL DEFAULT clock_timestamp())",
			fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (LIKE %s)", s.backup(), s.table()),
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "INSERT INTO "+s.log()+" (target, config, step) VALUES ($1::text, $2::text, 'prepare') ON CONFLICT DO NOTHING", s.table(), s.fingerprint()); err != nil {
			return err
		}
		var config string
		if err := tx.QueryRow(ctx, "SELECT config FROM "+s.log()+" WHERE target = $1::text", s.table()).Scan(&config); err != nil {
			return err
		}
		if config != s.fingerprint() {
			return fmt.Errorf("%w: this table's adoption was begun with %s; go on with that, or undo it first", ErrConfig, config)
		}
		return s.completeBackup(ctx, tx)
	})
}

func (s *session) completeBackup(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT format('ALTER TABLE %s ADD COLUMN %I %s', $2::text, attname, format_type(atttypid, atttypmod)) FROM pg_attribute a
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND NOT EXISTS (
	SELECT FROM pg_attribute b WHERE b.attrelid = to_regclass($2::text) AND b.attname = a.attname AND NOT b.attisdropped)`, s.oid, s.backup())
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, statement := range statements {
		if err == nil {
			_, err = tx.Exec(ctx, statement)
		}
	}
	return err
}

// attempts bounds how often the unique index is begun. With the barrier up, one suffices, but for a transaction in stricter
// isolation that took its snapshot long before.
const attempts = 10

// makeUnique removes duplicates until the unique index can be built.
func (s *session) makeUnique(ctx context.Context, r *Result) error {
	if err := s.step(ctx, "helper index"); err != nil {
		return err
	}
	if err := s.build(ctx, s.helper(), s.createIndex("", s.helper())); err != nil {
		return err
	}
	if err := s.step(ctx, "barrier"); err != nil {
		return err
	}
	if err := s.putUpBarrier(ctx); err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		if err := s.step(ctx, "remove duplicates"); err != nil {
			return err
		}
		if err := s.remove(ctx, r); err != nil {
			return err
		}
		if err := s.step(ctx, "unique index"); err != nil {
			return err
		}
		err := s.build(ctx, s.unique(), s.createUnique())
		if err == nil {
			break
		}
		if !sqltx.Unique(err) || attempt == attempts {
			return err
		}
	}
	if err := s.step(ctx, "verify"); err != nil {
		return err
	}
	unique, err := s.isUnique(ctx, s.Conn)
	if err == nil && !unique {
		err = errors.New("the unique index was built and is not valid: somebody else works on this table's indexes")
	}
	return err
}

// build creates an index unless it is there. One that a killed run left invalid is dropped first.
func (s *session) build(ctx context.Context, name, statement string) error {
	found, err := s.index(ctx, s.Conn, name)
	if err != nil || found == yes {
		return err
	}
	if found == invalid {
		if err := s.dropIndex(ctx, name); err != nil {
			return err
		}
	}
	return s.concurrently(ctx, statement)
}

// putUpBarrier installs a trigger that refuses a row whose keys another row has. CREATE TRIGGER waits for all writers that
// are at work, so that afterwards none goes past it.
func (s *session) putUpBarrier(ctx context.Context) error {
	var same []string
	for _, key := range s.keys() {
		same = append(same, fmt.Sprintf("o.%[1]s = NEW.%[1]s", sqltx.Quote("", key)))
	}
	if typed := s.typed("o."); typed != "" {
		same = append(same, typed)
	}
	function := sqltx.Quote(s.cfg.Schema, s.barrier())
	body := fmt.Sprintf(`BEGIN
	IF %s THEN
		PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hash_record_extended(ROW(%s), %d));
		IF EXISTS (SELECT FROM %s o WHERE %s) THEN
			RAISE EXCEPTION USING ERRCODE = 'unique_violation', CONSTRAINT = %s, TABLE = TG_TABLE_NAME, SCHEMA = TG_TABLE_SCHEMA,
				MESSAGE = pg_catalog.format('duplicate event: %%I.%%I has one of this aggregate and type, and endstate adopt is at work', TG_TABLE_SCHEMA, TG_TABLE_NAME);
		END IF;
	END IF;
	RETURN NEW;
END`, s.covered("NEW."), quoted(s.keys(), "NEW."), s.oid, s.table(), strings.Join(same, " AND "), sqltx.Literal(s.unique()))
	return s.locked(ctx, func(tx pgx.Tx) error {
		for _, statement := range []string{
			fmt.Sprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS %s", function, sqltx.Literal(body)),
			fmt.Sprintf("CREATE OR REPLACE TRIGGER %s BEFORE INSERT ON %s FOR EACH ROW EXECUTE FUNCTION %s()", sqltx.Quote("", s.barrier()), s.table(), function),
		} {
			if _, err := tx.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove goes through the aggregates with duplicates, in the order of the helper index, once.
func (s *session) remove(ctx context.Context, r *Result) error {
	var after []string // the last keys, as text
	for {
		batch, err := s.duplicated(ctx, after)
		if err != nil || len(batch[0]) == 0 {
			return err
		}
		var moved int64
		err = s.locked(ctx, func(tx pgx.Tx) (err error) {
			moved, err = s.removeBatch(ctx, tx, batch)
			return err
		})
		if err != nil {
			return err
		}
		r.Moved += moved
		s.cfg.Progress("remove duplicates", r.Moved)
		last := len(batch[0]) - 1
		after = nil
		for _, column := range batch {
			after = append(after, column[last])
		}
	}
}

// duplicated returns the keys of the next aggregates with duplicates, a list for each key column, as text.
func (s *session) duplicated(ctx context.Context, after []string) ([][]string, error) {
	keys := quoted(s.keys(), "")
	var args []any
	beyond := ""
	if after != nil {
		var values []string
		for i, key := range s.keys() {
			args = append(args, after[i])
			values = append(values, fmt.Sprintf("$%d::text::%s", i+1, s.types[key]))
		}
		beyond = fmt.Sprintf(" AND (%s) > (%s)", keys, strings.Join(values, ", "))
	}
	var texts []string
	for _, key := range s.keys() {
		texts = append(texts, sqltx.Quote("", key)+"::text")
	}
	rows, err := s.Query(ctx, fmt.Sprintf("SELECT %s FROM %s WHERE %s%s GROUP BY %s HAVING count(*) > 1 ORDER BY %[5]s LIMIT %d",
		strings.Join(texts, ", "), s.table(), s.covered(""), beyond, keys, s.cfg.Batch), args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	batch := make([][]string, len(s.keys()))
	dest := make([]any, len(batch))
	values := make([]string, len(batch))
	for i := range values {
		dest[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		for i, value := range values {
			batch[i] = append(batch[i], value)
		}
	}
	return batch, rows.Err()
}

// removeBatch moves duplicates into the backup table. It locks the rows first, so that the relay can't publish one that goes
// while an unpublished one stays.
func (s *session) removeBatch(ctx context.Context, tx pgx.Tx, batch [][]string) (int64, error) {
	var arrays []string
	args := make([]any, len(batch))
	for i, key := range s.keys() {
		args[i] = batch[i]
		arrays = append(arrays, fmt.Sprintf("$%d::text[]::%s[]", i+1, s.types[key]))
	}
	these := fmt.Sprintf("%s AND (%s) IN (SELECT * FROM unnest(%s))", s.covered(""), quoted(s.keys(), ""), strings.Join(arrays, ", "))
	if _, err := tx.Exec(ctx, fmt.Sprintf("SELECT FROM %s WHERE %s ORDER BY %s FOR UPDATE", s.table(), these, quoted(s.keys(), "")), args...); err != nil {
		return 0, err
	}
	columns := quoted(s.order, "")
	tag, err := tx.Exec(ctx, fmt.Sprintf(`WITH endstate_ranked AS (
	SELECT ctid AS endstate_ctid, row_number() OVER (PARTITION BY %s ORDER BY %s) AS endstate_n FROM %s WHERE %s),
endstate_removed AS (
	DELETE FROM %[3]s AS endstate_row USING endstate_ranked WHERE endstate_row.ctid = endstate_ctid AND endstate_n > 1 RETURNING %[5]s)
INSERT INTO %[6]s (%[7]s) SELECT %[7]s FROM endstate_removed`,
		quoted(s.keys(), ""), s.best(), s.table(), these, quoted(s.order, "endstate_row."), s.backup(), columns), args...)
	return tag.RowsAffected(), err
}

// cleanUp removes the barrier and its index.
func (s *session) cleanUp(ctx context.Context) error {
	var there bool
	if err := s.QueryRow(ctx, "SELECT to_regproc($1::text) IS NOT NULL", sqltx.Quote(s.cfg.Schema, s.barrier())).Scan(&there); err != nil {
		return err
	}
	if there {
		err := s.locked(ctx, func(tx pgx.Tx) error {
			for _, statement := range []string{
				fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", sqltx.Quote("", s.barrier()), s.table()),
				fmt.Sprintf("DROP FUNCTION %s()", sqltx.Quote(s.cfg.Schema, s.barrier())),
			} {
				if _, err := tx.Exec(ctx, statement); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	found, err := s.index(ctx, s.Conn, s.helper())
	if err != nil || found == no {
		return err
	}
	return s.dropIndex(ctx, s.helper())
}
