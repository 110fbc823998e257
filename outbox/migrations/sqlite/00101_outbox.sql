-- +goose Up
-- Events wait here for the relay. seq is allocated under the database's write lock, so it is commit order.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    id              TEXT    NOT NULL, -- a UUID
    aggregate_type  TEXT    NOT NULL,
    aggregate_id    TEXT    NOT NULL,
    shard           INTEGER NOT NULL CHECK (shard BETWEEN 0 AND 63), -- the first byte of SHA-256 over aggregate_type, a slash and aggregate_id, modulo 64
    type            TEXT    NOT NULL,
    payload         BLOB    NOT NULL, -- the bytes as given
    content_type    TEXT    NOT NULL,
    headers         TEXT    NOT NULL, -- a JSON object
    occurred_at     TEXT    NOT NULL, -- RFC 3339 in UTC, as are all times
    dedup_key       TEXT,             -- NULL: no dedup beyond the id
    schema_version  INTEGER NOT NULL,
    created_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    attempts        INTEGER NOT NULL DEFAULT 0, -- failed publications
    crashes         INTEGER NOT NULL DEFAULT 0, -- relays that died while they published this event alone
    next_attempt_at TEXT,             -- after a failure; 'infinity': behind a failed event of the same aggregate
    last_error      TEXT,
    published_at    TEXT,
    dead_at         TEXT              -- given up: a dead letter
);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_id" ON "endstate_outbox" (id);
-- +goose StatementEnd
-- Over all rows, published ones too: an index over unpublished rows stops deduplicating at the first publish.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_dedup" ON "endstate_outbox" (dedup_key);
-- +goose StatementEnd
-- What a relay reads: the events that may go out at once. A published row leaves it, and the two below.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_pending" ON "endstate_outbox" (seq, shard)
    WHERE published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL;
-- +goose StatementEnd
-- Failed events by when they are due, and which aggregates they hold back.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_due" ON "endstate_outbox" (next_attempt_at, shard) WHERE next_attempt_at IS NOT NULL;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_waiting" ON "endstate_outbox" (aggregate_type, aggregate_id, seq) WHERE next_attempt_at IS NOT NULL;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_dead" ON "endstate_outbox" (seq) WHERE dead_at IS NOT NULL;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox";
-- +goose StatementEnd
