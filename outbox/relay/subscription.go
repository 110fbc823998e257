package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/outbox"
)

// join makes the subscription unless it is there, makes sure that its relays agree, and takes a lease.
func (s *store) join(ctx context.Context, id, destination string) error {
	return s.inTx(ctx, func(ctx context.Context, tx endstate.Tx) error {
		name, start, placing := s.cfg.Subscription, string(s.cfg.Start), 0
		if s.cfg.Start != Begin {
			placing = 2
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s (name, types, destination, start) VALUES (CAST($1 AS text), CAST($2 AS text), CAST($3 AS text), CAST($4 AS text)) ON CONFLICT DO NOTHING",
			s.subscriptions), name, s.cfg.types, destination, start); err != nil {
			return err
		}
		var types, where string // the lock doesn't wait for a transaction that parks
		if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT types, destination FROM %s WHERE name = CAST($1 AS text)%s", s.subscriptions, s.either(" FOR NO KEY UPDATE", "")), name).Scan(&types, &where); err != nil {
			return err
		}
		// On PostgreSQL the conflict clause alone would wait for whoever is moving the cursor.
		insert := s.either(`INSERT INTO %[1]s (subscription, partition, token, placements, snapshot, cluster) SELECT $1::text, $2::int, %[2]s, $3::int, pg_current_snapshot(), system_identifier FROM pg_control_system()
WHERE NOT EXISTS (SELECT FROM %[1]s WHERE subscription = $1::text AND partition = $2::int) ON CONFLICT DO NOTHING`,
			"INSERT INTO %[1]s (subscription, partition, token, placements) VALUES ($1, $2, %[2]s, $3) ON CONFLICT DO NOTHING")
		for p := range outbox.Partitions {
			if _, err := tx.Exec(ctx, fmt.Sprintf(insert, s.cursors, s.random()), name, p, placing); err != nil {
				return err
			}
		}
		if other := destination != "" && where != destination; other || types != s.cfg.types {
			var alive int
			if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s WHERE subscription = CAST($1 AS text) AND expires_at >= %s", s.relays, s.clock()), name).Scan(&alive); err != nil {
				return err
			}
			switch {
			case alive == 0 || where == "" && types == s.cfg.types:
			case other:
				return fmt.Errorf("%w: subscription %q has %d running relays, which publish to %q, not to %q; use the same Destination, or a Subscription of its own", ErrDestination, name, alive, where, destination)
			default:
				return fmt.Errorf("%w: subscription %q has %d running relays for the types %s, not %s; use the same Types, or a Subscription of its own", ErrDestination, name, alive, types, s.cfg.types)
			}
			if !other {
				destination = where
			}
			if where != "" || types != s.cfg.types {
				s.cfg.Logger.WarnContext(ctx, "outbox relay: the subscription has changed", "subscription", name, "destination", destination, "before", where, "types", s.cfg.types, "types_before", types)
			}
			if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE %s SET types = CAST($2 AS text), destination = CAST($3 AS text) WHERE name = CAST($1 AS text)", s.subscriptions), name, s.cfg.types, destination); err != nil {
				return err
			}
		}
		if err := s.incarnate(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s (id, subscription, name, expires_at) VALUES (%s, CAST($2 AS text), CAST($3 AS text), %s)",
			s.relays, s.uuid("CAST($1 AS text)"), s.later("CAST($4 AS double precision)")), id, name, s.cfg.Name, s.cfg.LeaseTTL.Seconds())
		return err
	})
}

// incarnate writes the row of this incarnation of the database where it is missing.
func (s *store) incarnate(ctx context.Context, q endstate.Querier) error {
	if s.sqlite() {
		return nil
	}
	var there bool
	if err := q.QueryRow(ctx, "SELECT "+s.incarnated()+" IS NOT NULL").Scan(&there); err != nil || there {
		return err
	}
	_, err := q.Exec(ctx, fmt.Sprintf(`INSERT INTO %[1]s AS i (id, database, relation)
SELECT gen_random_uuid(), d.oid, '%[2]s'::regclass FROM pg_database d WHERE datname = current_database()
ON CONFLICT (one) DO UPDATE SET id = excluded.id, database = excluded.database, relation = excluded.relation
	WHERE (i.database, i.relation) <> (excluded.database, excluded.relation)`, s.incarnation, s.incarnation))
	return err
}

// endingStatement reads where partitions that are being placed shall stand: at the end, or before a time.
func (s *store) endingStatement() string {
	before := s.either("e.created_at < CASE WHEN s.start NOT IN ('begin', 'end') THEN s.start::timestamptz END", "julianday(e.created_at) < julianday(s.start)")
	return fmt.Sprintf(`SELECT c.partition, CAST(c.token AS text), c.position, %s, CAST(%s AS text), coalesce(
	(SELECT e.seq FROM %s e WHERE e.partition = c.partition AND (s.start IN ('begin', 'end') OR %s) ORDER BY e.partition DESC, e.seq DESC LIMIT 1), 0)
FROM %s c JOIN %s s ON s.name = c.subscription WHERE c.%s AND c.placements > 0`, s.either("pg_current_snapshot()::text", "''"), s.incarnated(), s.events, before, s.cursors, s.subscriptions, s.owned())
}

// place moves cursors of a new subscription to where it starts, without publishing anything. That is done twice: with its second
// snapshot, a cursor knows that whatever is late in the stretch behind it was in progress then. One move would deliver half a
// transaction, or have each look go through the whole table.
func (t *term) place(ctx context.Context) error {
	var moves []move
	var now, incarnation string
	err := t.store.rows(ctx, func(row pgx.Row) error {
		m := move{Mode: moveAll, Next: newToken()}
		err := row.Scan(&m.Partition, &m.Token, &m.Shown, &now, &incarnation, &m.Position)
		moves = append(moves, m)
		return err
	}, t.store.ending, t.cfg.Subscription, t.lease.id)
	if err == nil && len(moves) > 0 {
		_, err = t.store.move(ctx, moves, now, incarnation, nil)
	}
	return err
}

// sample writes down where the cursors are that have moved since the last sample.
func (s *store) sample(ctx context.Context, id string) error {
	return s.run(ctx, fmt.Sprintf(`INSERT INTO %[2]s (subscription, partition, position) SELECT c.subscription, c.partition, c.position FROM %[1]s c
WHERE c.subscription = CAST($1 AS text) AND c.owner = %[3]s AND c.position > coalesce((SELECT position FROM %[2]s
	WHERE subscription = c.subscription AND partition = c.partition ORDER BY at DESC LIMIT 1), 0) ON CONFLICT DO NOTHING`, s.cursors, s.samples, s.uuid("CAST($2 AS text)")), s.cfg.Subscription, id)
}

// lastSample is how long ago a cursor of the subscription was last seen to have moved, and so the destination to take something.
func (s *store) lastSample(ctx context.Context) (age time.Duration, err error) {
	var ago *float64
	err = s.QueryRow(ctx, fmt.Sprintf("SELECT %s", s.age(fmt.Sprintf("(SELECT max(at) FROM %s WHERE subscription = CAST($1 AS text))", s.samples))), s.cfg.Subscription).Scan(&ago)
	if err != nil || ago == nil {
		return 24 * time.Hour, err
	}
	return seconds(*ago), nil
}

// keepSamples is how long samples are kept, beyond twice the retention.
const keepSamples = 7 * 24 * time.Hour
