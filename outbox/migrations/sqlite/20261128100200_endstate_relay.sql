-- +goose Up
-- The readers of the log. Each gets every event that matches, on its own.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_subscriptions" (
    name        TEXT PRIMARY KEY,
    types       TEXT NOT NULL, -- a JSON array of event types and prefixes ("assessment.*"); empty: all
    destination TEXT NOT NULL, -- where its relays publish: scheme and host; empty: they don't say
    start       TEXT NOT NULL, -- begin, end, or a time
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
-- +goose StatementEnd
-- How far a subscription is in a partition: every row up to position is published, or parked. Who moves it gives it a new token,
-- and must know the old one.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_cursors" (
    subscription  TEXT    NOT NULL,
    partition     INTEGER NOT NULL,
    owner         TEXT,                       -- a relay's lease; NULL: nobody's
    token         TEXT    NOT NULL,           -- the fence: random, new with each take-over and each move
    position      INTEGER NOT NULL DEFAULT 0,
    placements       INTEGER NOT NULL DEFAULT 0, -- moves without publishing until it stands where the subscription starts
    batch         INTEGER NOT NULL DEFAULT 0, -- how many rows its owner reads at most: the window to be careful with after a crash
    careful       INTEGER NOT NULL DEFAULT 0, -- 1: its last owner's lease ran out; 2: what that may have had in flight is parked, and goes out event by event
    blocked_since TEXT,                       -- the destination takes nothing
    blocked_by    TEXT,                       -- an event that it doesn't take
    blocked_why   TEXT,
    PRIMARY KEY (subscription, partition)
) STRICT;
-- +goose StatementEnd
-- Events that a cursor has passed and that are not published: those that failed, those of the same aggregate behind them, and
-- dead letters.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_parked" (
    subscription    TEXT    NOT NULL,
    partition       INTEGER NOT NULL,
    seq             INTEGER NOT NULL,
    event_id        TEXT    NOT NULL,
    aggregate_type  TEXT    NOT NULL,
    aggregate_id    TEXT    NOT NULL,
    attempts        INTEGER NOT NULL DEFAULT 0, -- failed publications
    crashes         INTEGER NOT NULL DEFAULT 0, -- relays that died while they published this event alone
    suspect         INTEGER NOT NULL DEFAULT 0, -- it was in flight when a relay died: to be published alone
    next_attempt_at TEXT,                       -- NULL: behind another one of its aggregate
    last_error      TEXT,
    parked_at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    dead_at         TEXT,                       -- given up: a dead letter
    PRIMARY KEY (subscription, partition, seq)
) STRICT;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_parked_due" ON "endstate_outbox_parked" (subscription, partition, next_attempt_at) WHERE dead_at IS NULL;
-- +goose StatementEnd
-- Which aggregates wait, and for which of their events.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_parked_waiting" ON "endstate_outbox_parked" (subscription, partition, aggregate_type, aggregate_id, seq) WHERE dead_at IS NULL;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_parked_dead" ON "endstate_outbox_parked" (subscription, dead_at) WHERE dead_at IS NOT NULL;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_parked_event" ON "endstate_outbox_parked" (event_id);
-- +goose StatementEnd
-- A row for each running relay: its lease on the cursors that it owns. Who finds it expired, on the database's clock, deletes it.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_relays" (
    id           TEXT    PRIMARY KEY,
    subscription TEXT    NOT NULL,
    name         TEXT    NOT NULL, -- host and process, for people
    started_at   TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at   TEXT    NOT NULL,
    published    INTEGER NOT NULL DEFAULT 0,
    rate         REAL    NOT NULL DEFAULT 0 -- events published per second, lately
) STRICT;
-- +goose StatementEnd
-- When a cursor stood where, every few seconds in which it moved: when an event was published, and what retention may delete.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_samples" (
    subscription TEXT    NOT NULL,
    partition    INTEGER NOT NULL,
    at           TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    position     INTEGER NOT NULL,
    PRIMARY KEY (subscription, partition, at)
) STRICT;
-- +goose StatementEnd
-- What people did: with dead letters, and with subscriptions.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_audit" (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    at           TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    subscription TEXT NOT NULL,
    action       TEXT NOT NULL, -- retry, discard, replay, drop
    event_id     TEXT,          -- NULL: of the subscription as a whole
    by_whom      TEXT NOT NULL,
    reason       TEXT NOT NULL,
    attempts     INTEGER,       -- of the event, as they were
    last_error   TEXT,
    detail       TEXT           -- what else there is to know, such as where a replay began
) STRICT;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_audit_event" ON "endstate_outbox_audit" (event_id);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox_audit";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_samples";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_relays";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_parked";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_cursors";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_subscriptions";
-- +goose StatementEnd
