-- +goose Up
-- Events wait here for the relay. seq is allocated under the guard's row lock, so within one aggregate it is commit order.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    seq             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id              uuid        NOT NULL,
    aggregate_type  text        NOT NULL,
    aggregate_id    text        NOT NULL,
    shard           smallint    NOT NULL CHECK (shard BETWEEN 0 AND 63), -- get_byte(sha256(convert_to(aggregate_type || '/' || aggregate_id, 'UTF8')), 0) % 64
    type            text        NOT NULL,
    payload         bytea       NOT NULL, -- the bytes as given: jsonb would reorder and refuse some
    content_type    text        NOT NULL,
    headers         jsonb       NOT NULL,
    occurred_at     timestamptz NOT NULL,
    dedup_key       text,                 -- NULL: no dedup beyond the id
    schema_version  integer     NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts        integer     NOT NULL DEFAULT 0, -- failed publications
    crashes         smallint    NOT NULL DEFAULT 0, -- relays that died while they published this event alone
    next_attempt_at timestamptz,          -- after a failure; infinity: behind a failed event of the same aggregate
    last_error      text,
    published_at    timestamptz,
    dead_at         timestamptz           -- given up: a dead letter
) WITH (autovacuum_vacuum_scale_factor = 0.02);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_id" ON "endstate_outbox" (id);
-- +goose StatementEnd
-- Over all rows, published ones too: an index over unpublished rows stops deduplicating at the first publish.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_dedup" ON "endstate_outbox" (dedup_key);
-- +goose StatementEnd
-- What a relay reads: the events that may go out at once, by shard. A published row leaves it, and the two below.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_pending" ON "endstate_outbox" (shard, seq)
    WHERE published_at IS NULL AND dead_at IS NULL AND next_attempt_at IS NULL;
-- +goose StatementEnd
-- Failed events by when they are due, and which aggregates they hold back.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_due" ON "endstate_outbox" (shard, next_attempt_at) WHERE next_attempt_at IS NOT NULL;
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
