-- +goose Up
-- Events wait here for the relay. seq is allocated under the guard's row lock, so within one aggregate it is commit order.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    seq            bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id             uuid        NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text        NOT NULL,
    type           text        NOT NULL,
    payload        bytea       NOT NULL, -- the bytes as given: jsonb would reorder and refuse some
    content_type   text        NOT NULL,
    headers        jsonb       NOT NULL,
    occurred_at    timestamptz NOT NULL,
    dedup_key      text,                 -- NULL: no dedup beyond the id
    schema_version integer     NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at   timestamptz
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
