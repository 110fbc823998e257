-- +goose Up
-- A row for each running relay: its lease. Who finds it expired, on the database's clock, deletes it.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_relays" (
    epoch       INTEGER PRIMARY KEY AUTOINCREMENT, -- the fencing token: each lease has a higher one
    name        TEXT NOT NULL,        -- host and process, for people
    started_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    expires_at  TEXT NOT NULL,
    flight_from INTEGER,               -- the lowest and the highest seq that are being published
    flight_to   INTEGER,
    published   INTEGER NOT NULL DEFAULT 0,
    rate        REAL NOT NULL DEFAULT 0 -- events published per second, lately
);
-- +goose StatementEnd
-- Which relay owns a shard. What was in flight when its owner died is suspect: the next one publishes it event by event.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_shards" (
    shard        INTEGER PRIMARY KEY,
    epoch        INTEGER, -- of the owner; NULL: nobody
    suspect_from INTEGER,
    suspect_to   INTEGER
);
-- +goose StatementEnd
-- +goose StatementBegin
INSERT INTO "endstate_outbox_shards" (shard)
WITH RECURSIVE numbers (n) AS (VALUES (0) UNION ALL SELECT n + 1 FROM numbers WHERE n < 63) SELECT n FROM numbers;
-- +goose StatementEnd
-- What people did with dead letters.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_audit" (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    at         TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    action     TEXT NOT NULL, -- retry or discard
    event_id   TEXT NOT NULL,
    by_whom    TEXT NOT NULL,
    reason     TEXT NOT NULL,
    attempts   INTEGER NOT NULL, -- as they were
    last_error TEXT
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
DROP TABLE "endstate_outbox_shards";
-- +goose StatementEnd
-- +goose StatementBegin
DROP TABLE "endstate_outbox_relays";
-- +goose StatementEnd
