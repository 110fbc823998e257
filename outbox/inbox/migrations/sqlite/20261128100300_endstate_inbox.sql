-- +goose Up
-- One row for each event (or business key) that a consumer has handled, failed at, or given up on.
-- +goose StatementBegin
CREATE TABLE "endstate_inbox" (
    consumer TEXT    NOT NULL,
    key      TEXT    NOT NULL, -- the event's id, or the consumer's business key
    event_id TEXT,             -- the event's id where key is another; else NULL
    digest   BLOB    NOT NULL, -- SHA-256 of the event: tells a repeat from another event of the same id
    state    TEXT    NOT NULL, -- handled, failed or dead
    attempts INTEGER NOT NULL, -- how often it was tried
    at       TEXT    NOT NULL, -- of the last attempt; RFC 3339 in UTC
    result   BLOB,             -- what the handler returned, for repeats
    event    BLOB,             -- the event as JSON unless it was handled: what a retry of a dead letter handles
    error    TEXT,             -- of the last attempt unless it was handled
    PRIMARY KEY (consumer, key)
);
-- +goose StatementEnd
-- Empty unless a consumer has a business key.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_inbox_event" ON "endstate_inbox" (consumer, event_id) WHERE event_id IS NOT NULL;
-- +goose StatementEnd
-- For the clean-up, which leaves dead letters alone.
-- +goose StatementBegin
CREATE INDEX "endstate_inbox_at" ON "endstate_inbox" (consumer, at) WHERE state <> 'dead';
-- +goose StatementEnd
-- +goose StatementBegin
CREATE INDEX "endstate_inbox_dead" ON "endstate_inbox" (consumer, at) WHERE state = 'dead';
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_inbox";
-- +goose StatementEnd
