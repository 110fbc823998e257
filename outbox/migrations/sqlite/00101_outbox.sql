-- +goose Up
-- Events wait here for the relay. seq is allocated under the database's write lock, so it is commit order.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    seq            INTEGER PRIMARY KEY AUTOINCREMENT,
    id             TEXT    NOT NULL, -- a UUID
    aggregate_type TEXT    NOT NULL,
    aggregate_id   TEXT    NOT NULL,
    type           TEXT    NOT NULL,
    payload        BLOB    NOT NULL, -- the bytes as given
    content_type   TEXT    NOT NULL,
    headers        TEXT    NOT NULL, -- a JSON object
    occurred_at    TEXT    NOT NULL, -- RFC 3339 in UTC
    dedup_key      TEXT,             -- NULL: no dedup beyond the id
    schema_version INTEGER NOT NULL,
    created_at     TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    published_at   TEXT
);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_id" ON "endstate_outbox" (id);
-- +goose StatementEnd
-- Over all rows, published ones too: an index over unpublished rows stops deduplicating at the first publish.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_dedup" ON "endstate_outbox" (dedup_key);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox";
-- +goose StatementEnd
