-- +goose Up
-- A row for each running relay: its lease. Who finds it expired, on the database's clock, deletes it.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_relays" (
    epoch       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- the fencing token: each lease has a higher one
    name        text NOT NULL,        -- host and process, for people
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    flight_from bigint,               -- the lowest and the highest seq that are being published
    flight_to   bigint,
    published   bigint NOT NULL DEFAULT 0,
    rate        real NOT NULL DEFAULT 0 -- events published per second, lately
) WITH (fillfactor = 50);
-- +goose StatementEnd
-- Which relay owns a shard. What was in flight when its owner died is suspect: the next one publishes it event by event.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_shards" (
    shard        smallint PRIMARY KEY,
    epoch        bigint, -- of the owner; NULL: nobody
    suspect_from bigint,
    suspect_to   bigint
) WITH (fillfactor = 50);
-- +goose StatementEnd
-- +goose StatementBegin
INSERT INTO "endstate_outbox_shards" (shard) SELECT generate_series(0, 63);
-- +goose StatementEnd
-- What people did with dead letters.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox_audit" (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    action     text NOT NULL, -- retry or discard
    event_id   uuid NOT NULL,
    by_whom    text NOT NULL,
    reason     text NOT NULL,
    attempts   integer NOT NULL, -- as they were
    last_error text
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
