-- +goose Up
-- The readers of the log. Each gets every event that matches, on its own.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_subscriptions" (
    name        text        PRIMARY KEY,
    types       text        NOT NULL, -- a JSON array of event types and prefixes ("assessment.*"); empty: all
    destination text        NOT NULL, -- where its relays publish: scheme and host; empty: they don't say
    start       text        NOT NULL, -- begin, end, or a time
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
-- +goose StatementEnd
-- How far a subscription is in a partition: every row up to position that snapshot shows is published, or parked. Who moves it
-- gives it a new token, and must know the old one.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_cursors" (
    subscription     text        NOT NULL REFERENCES "endstate_outbox_subscriptions" (name) ON DELETE CASCADE,
    partition        smallint    NOT NULL,
    owner            uuid,                           -- a relay's lease; NULL: nobody's
    token            uuid        NOT NULL,           -- the fence: random, new with each take-over and each move
    position         bigint      NOT NULL DEFAULT 0,
    prior_position   bigint      NOT NULL DEFAULT 0, -- the position that the last move's reading saw here
    snapshot         pg_snapshot NOT NULL,           -- the last move's reading's
    restored_through bigint      NOT NULL DEFAULT 0, -- rows up to here came with a restore: their txid says nothing
    late_snapshot    pg_snapshot,                    -- while late rows go out in pieces: the first piece's,
    late_through     bigint      NOT NULL DEFAULT 0, -- and how far they are
    placements          smallint    NOT NULL DEFAULT 0, -- moves without publishing until it stands where the subscription starts
    batch            integer     NOT NULL DEFAULT 0, -- how many rows its owner reads at most: the window to be careful with after a crash
    careful          smallint    NOT NULL DEFAULT 0, -- 1: its last owner's lease ran out; 2: what that may have had in flight is parked, and goes out event by event
    cluster          bigint      NOT NULL,           -- the system identifier of the cluster whose transactions snapshot counts
    restored         boolean     NOT NULL DEFAULT false, -- that was another one
    blocked_since    timestamptz,                    -- the destination takes nothing
    blocked_by       uuid,                           -- an event that it doesn't take
    blocked_why      text,
    PRIMARY KEY (subscription, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
-- +goose StatementEnd
-- Events that a cursor has passed and that are not published: those that failed, those of the same aggregate behind them, and
-- dead letters.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_parked" (
    subscription    text        NOT NULL REFERENCES "endstate_outbox_subscriptions" (name) ON DELETE CASCADE,
    partition       smallint    NOT NULL,
    seq             bigint      NOT NULL,
    event_id        uuid        NOT NULL,
    aggregate_type  text        NOT NULL,
    aggregate_id    text        NOT NULL,
    attempts        integer     NOT NULL DEFAULT 0, -- failed publications
    crashes         smallint    NOT NULL DEFAULT 0, -- relays that died while they published this event alone
    suspect         boolean     NOT NULL DEFAULT false, -- it was in flight when a relay died: to be published alone
    next_attempt_at timestamptz,                    -- NULL: behind another one of its aggregate
    last_error      text,
    parked_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    dead_at         timestamptz,                    -- given up: a dead letter
    PRIMARY KEY (subscription, partition, seq)
) WITH (autovacuum_vacuum_scale_factor = 0.02);
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
    id           uuid        PRIMARY KEY,
    subscription text        NOT NULL REFERENCES "endstate_outbox_subscriptions" (name) ON DELETE CASCADE,
    name         text        NOT NULL, -- host and process, for people
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    published    bigint      NOT NULL DEFAULT 0,
    rate         real        NOT NULL DEFAULT 0 -- events published per second, lately
) WITH (fillfactor = 50);
-- +goose StatementEnd
-- When a cursor stood where, every few seconds in which it moved: when an event was published, and what retention may delete.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_samples" (
    subscription text        NOT NULL REFERENCES "endstate_outbox_subscriptions" (name) ON DELETE CASCADE,
    partition    smallint    NOT NULL,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    position     bigint      NOT NULL,
    PRIMARY KEY (subscription, partition, at)
);
-- +goose StatementEnd
-- One random row that doesn't survive what commits may not survive: a crash, a promotion. UNLOGGED sees to that. A copy of the
-- database has another oid.
-- +goose StatementBegin
CREATE UNLOGGED TABLE "endstate_outbox_incarnation" (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    id       uuid    NOT NULL,
    database oid     NOT NULL,
    relation oid     NOT NULL
);
-- +goose StatementEnd
-- What people did: with dead letters, and with subscriptions.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_audit" (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    subscription text NOT NULL,
    action       text NOT NULL, -- retry, discard, replay, drop
    event_id     uuid,          -- NULL: of the subscription as a whole
    by_whom      text NOT NULL,
    reason       text NOT NULL,
    attempts     integer,       -- of the event, as they were
    last_error   text,
    detail       text           -- what else there is to know, such as where a replay began
);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_audit_event" ON "endstate_outbox_audit" (event_id);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox_audit";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_incarnation";
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
