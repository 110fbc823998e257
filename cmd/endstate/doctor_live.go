package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/migrations"
	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

func (d *doctor) stats(ctx context.Context) ([]relay.Stats, error) {
	admin, err := d.db.admin(d.writer)
	if err != nil {
		return nil, err
	}
	return admin.Stats(ctx)
}

// deadEvents finds dead letters.
func (d *doctor) deadEvents(ctx context.Context) (found []finding, err error) {
	stats, err := d.stats(ctx)
	for _, s := range stats {
		if s.Dead == 0 {
			continue
		}
		flags := d.outboxFlags(s.Subscription)
		found = append(found, finding{
			What: fmt.Sprintf("%d events in %s are dead letters of subscription %q.", s.Dead, quote(d.writer.Schema, d.writer.Name()), s.Subscription),
			Why:  "The relay gave them up: the subscription's consumers haven't seen them, and won't.",
			Fix: fmt.Sprintf("endstate outbox list --state dead%[1]s\n-- once the cause is fixed:\n"+
				"endstate outbox retry --all --by WHO --reason WHY%[1]s\n-- or, for those that nobody needs any more:\nendstate outbox discard --all --by WHO --reason WHY%[1]s", flags),
		})
	}
	return found, err
}

// blockedPartitions finds destinations that take nothing.
func (d *doctor) blockedPartitions(ctx context.Context) (found []finding, err error) {
	stats, err := d.stats(ctx)
	for _, s := range stats {
		if len(s.Blocked) == 0 {
			continue
		}
		b := s.Blocked[0]
		found = append(found, finding{
			What: fmt.Sprintf("%s of subscription %q wait for the destination, which has taken nothing since %s: %s", count(len(s.Blocked), "partition"), s.Subscription, b.Since.Format(time.RFC3339), b.Why),
			Why:  "Its events wait, and its relays try one now and then. No attempts are counted: nothing dies of it, but the backlog grows.",
			Fix:  "Look at the destination" + to(s.Destination) + "; when it takes events again, all of them go out at once. A subscription that is gone for good:\nendstate outbox drop --by WHO --reason WHY" + d.named(s.Subscription),
		})
	}
	return found, err
}

func to(destination string) string {
	if destination == "" {
		return ""
	}
	return ", " + destination
}

// outboxFlags are those by which commands find the outbox that the doctor looks at, and a subscription.
func (d *doctor) outboxFlags(subscription string) (flags string) {
	if subscription != relay.DefaultSubscription {
		flags += " --subscription " + shellQuoted(subscription)
	}
	if d.writer.Schema != "" {
		flags += " --schema " + shellQuoted(d.writer.Schema)
	}
	if d.writer.Name() != outbox.DefaultTable {
		flags += " --outbox " + shellQuoted(d.writer.Name())
	}
	return flags
}

// named are outboxFlags for a command that takes no subscription by default.
func (d *doctor) named(subscription string) string {
	flags := d.outboxFlags(subscription)
	if subscription == relay.DefaultSubscription {
		flags += " --subscription " + shellQuoted(subscription)
	}
	return flags
}

// shellQuoted is a text as a shell takes it for one argument.
func shellQuoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// partitions finds partitions whose events nobody publishes.
func (d *doctor) partitions(ctx context.Context) (found []finding, err error) {
	var stats []relay.Stats
	for attempt := range 6 {
		if stats, err = d.stats(ctx); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(stats, func(s relay.Stats) bool { return s.Unowned > 0 && len(s.Relays) > 0 }) || attempt == 5 {
			break
		}
		select { // partitions change hands within seconds
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if len(stats) == 0 {
		return []finding{{
			What: "No relay ever ran on this outbox: it has no subscription.",
			Why:  "Events are not published.",
			Fix:  "Start a relay: in the service, or endstate relay --to URL" + d.outboxFlags(relay.DefaultSubscription),
		}}, nil
	}
	for _, s := range stats {
		if s.Unowned == 0 {
			continue
		}
		waiting := fmt.Sprintf("%d events wait", s.Pending)
		if s.OldestAge > 0 {
			waiting += fmt.Sprintf(", the oldest for %v", s.OldestAge.Round(time.Second))
		}
		found = append(found, finding{
			What: fmt.Sprintf("%d of %d partitions of subscription %q have no owner, and %d relays run; %s.", s.Unowned, outbox.Partitions, s.Subscription, len(s.Relays), waiting),
			Why:  "Events of a partition without an owner are not published.",
			Fix: "Start a relay: in the service, or endstate relay --to URL" + d.outboxFlags(s.Subscription) + ". Those that run take free partitions by themselves: if they don't, look at their logs. " +
				"Retention waits for a subscription that is gone for good, until it is dropped:\nendstate outbox drop --by WHO --reason WHY" + d.named(s.Subscription),
		})
	}
	return found, nil
}

// log finds out whether cursors and sequence fit, where a server takes no writes.
func (d *doctor) log(ctx context.Context) (found []finding, err error) {
	admin, err := d.db.admin(d.writer)
	if err != nil {
		return nil, err
	}
	if err := admin.CheckSequence(ctx); errors.Is(err, relay.ErrSequence) {
		table, raise := quote(d.writer.Schema, d.writer.Name()), "SELECT setval(pg_get_serial_sequence('%s', 'seq'), (SELECT max(position) FROM %s) + 1);"
		if d.db.pool == nil {
			table, raise = d.writer.Name(), "UPDATE sqlite_sequence SET seq = (SELECT max(position) FROM %[2]s) WHERE name = '%[1]s';"
		}
		raise = fmt.Sprintf(raise, strings.ReplaceAll(table, "'", "''"), quote(d.writer.Schema, d.writer.Name()+"_cursors"))
		found = append(found, finding{
			What: err.Error() + ".",
			Why:  "New events get numbers that the cursor has passed, and are published by nobody: relays stop.",
			Fix:  raise + "\n-- and publish again what was written meanwhile:\nendstate outbox replay --from TIME --by WHO --reason WHY" + d.outboxFlags(relay.DefaultSubscription),
		})
	} else if err != nil {
		return nil, err
	}
	if d.db.pool == nil {
		return found, nil
	}
	if standby, err := d.standby(ctx); err != nil || !standby {
		return found, err
	}
	return append(found, finding{
		What: "The server is a standby.",
		Why:  "Nothing can be finalized or published here: the guard decides, and a relay reads, on the primary only.",
		Fix:  "Connect to the primary: with several hosts in the URL, target_session_attrs=read-write.",
	}), nil
}

func (d *doctor) standby(ctx context.Context) (standby bool, err error) {
	return standby, d.db.pool.QueryRow(ctx, "SELECT pg_is_in_recovery()").Scan(&standby)
}

// protecting is a status table whose only migration is its trigger's.
type protecting struct {
	migrations.Part
	guard.Status
}

func (p protecting) Migrations(dialect string) (fs.FS, error) { return p.ProtectionMigrations(dialect) }

// protection finds out whether the database itself refuses to leave a terminal state.
func (d *doctor) protection(ctx context.Context) ([]finding, error) {
	if err := d.db.missing(ctx, d.status.Schema, d.status.Table, []string{d.status.Key, d.status.Column}); err != nil {
		return nil, err
	}
	fix, err := migrations.SQL(d.db.name(), protecting{Status: d.status})
	if err != nil {
		return nil, err
	}
	there := false
	err = d.db.read(ctx, func(q endstate.Querier) error {
		if d.db.pool != nil {
			return q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = to_regclass($1::text) AND tgname LIKE 'zz\_endstate\_%' AND tgenabled IN ('O', 'A')
	AND tgargs = convert_to($2::text, 'UTF8') || '\x00'::bytea)`, quote(d.status.Schema, d.status.Table), d.status.Column).Scan(&there)
		}
		return q.QueryRow(ctx, `SELECT count(*) > 0 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 AND name LIKE 'zz\_endstate\_%' ESCAPE '\'`, d.status.Table).Scan(&there)
	})
	if err != nil || there {
		return nil, err
	}
	return []finding{{
		What: fmt.Sprintf("No trigger on %s refuses to leave a terminal state.", quote(d.status.Schema, d.status.Table)),
		Why:  "Code that writes the status without asking the guard can reopen what is done, and its events then go out a second time.",
		Fix:  "-- what guard.Status.Protect does at a service's start\n" + fix,
	}}, nil
}

// maxSkew is how far the clocks may be apart.
const maxSkew = time.Second

// clock compares the database's clock with this host's.
func (d *doctor) clock(ctx context.Context) ([]finding, error) {
	var skew, trip time.Duration
	for range 3 { // the shortest round trip tells best
		before := time.Now()
		var theirs time.Time
		if err := d.db.pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
			return nil, err
		}
		after := time.Now()
		if t := after.Sub(before); trip == 0 || t < trip {
			trip, skew = t, theirs.Sub(before.Add(t/2))
		}
	}
	return clockFinding(skew, trip), nil
}

func clockFinding(skew, trip time.Duration) []finding {
	if skew.Abs() <= maxSkew+trip/2 {
		return nil
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	return []finding{{
		What: fmt.Sprintf("The database's clock is %v %s this host's.", skew.Abs().Round(time.Millisecond), direction),
		Why:  "The library goes by the database's clock alone, so nothing breaks; but times in logs and in rows won't match, nor will what a service computes of both.",
		Fix:  "Let both hosts keep time by NTP: chronyc tracking, or timedatectl timesync-status, shows whether they do.",
	}}
}

// listen finds out whether notifications arrive: through a pooler in transaction mode they don't.
func (d *doctor) listen(ctx context.Context) ([]finding, error) {
	url := d.listenURL
	if url == "" {
		url = d.url
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, unparsed("--listen-url", url, err)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	}()
	if standby, err := d.standby(ctx); err != nil || standby {
		return nil, err // a standby can't listen
	}
	channel := "endstate doctor " + uuid.NewString()
	if _, err := conn.Exec(ctx, "LISTEN "+quote("", channel)); err != nil {
		return nil, err
	}
	if _, err := d.db.pool.Exec(ctx, "SELECT pg_notify($1::text, '')", channel); err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := conn.WaitForNotification(waiting); err == nil {
		return nil, nil
	} else if waiting.Err() == nil || ctx.Err() != nil {
		return nil, err
	}
	return []finding{{
		What: "A notification didn't arrive at the connection that listened for it.",
		Why:  "LISTEN needs a session of its own, and a pooler in transaction mode (PgBouncer) gives it to another client at once: the relay finds events by polling only, which is correct but later.",
		Fix:  "Give the relay an address of the server itself to listen on (endstate relay --listen-url URL; a service's own: relay.Config.ListenURL),\nand try it with: endstate doctor --listen-url URL",
	}}, nil
}
