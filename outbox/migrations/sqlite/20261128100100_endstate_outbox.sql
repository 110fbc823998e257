-- +goose Up
-- The log. Rows are inserted, read in the order of seq, and deleted by retention; nothing updates them. seq is allocated under
-- the database's write lock, so it is commit order.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    partition       INTEGER NOT NULL CHECK (partition BETWEEN 0 AND 7), -- the first byte of SHA-256 over aggregate_type, a slash and aggregate_id, modulo 8
    id              TEXT    NOT NULL, -- a UUID
    aggregate_type  TEXT    NOT NULL,
    aggregate_id    TEXT    NOT NULL,
    type            TEXT    NOT NULL,
    payload         BLOB    NOT NULL, -- the bytes as given
    content_type    TEXT    NOT NULL DEFAULT 'application/json',
    headers         TEXT    NOT NULL DEFAULT '{}', -- a JSON object of strings
    occurred_at     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')), -- RFC 3339 in UTC, as are all times
    dedup_key       TEXT,             -- NULL: no dedup beyond the id
    schema_version  INTEGER NOT NULL DEFAULT 1,
    created_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) STRICT;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_id" ON "endstate_outbox" (id);
-- +goose StatementEnd
-- Over all rows, published ones too: an index over unpublished rows stops deduplicating at the first publish.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_dedup" ON "endstate_outbox" (dedup_key);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_order" ON "endstate_outbox" (partition, seq);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox";
-- +goose StatementEnd
