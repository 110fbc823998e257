-- +goose Up
-- Where an aggregate's events go. The same as outbox.Partition in Go.
-- +goose StatementBegin
CREATE FUNCTION "endstate_outbox_partition"(aggregate_type text, aggregate_id text) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT (get_byte(sha256(convert_to(aggregate_type || '/' || aggregate_id, 'UTF8')), 0) % 8)::smallint $$;
-- +goose StatementEnd
-- The log. Rows are inserted, read in the order of seq, and deleted by retention; nothing updates them.
-- txid stands before seq, because defaults are evaluated in this order: a row's transaction has its id before the row has its
-- number. The relay's reading rests on that, and on a sequence that never goes back.
-- +goose StatementBegin
CREATE TABLE "endstate_outbox" (
    txid            xid8        NOT NULL DEFAULT pg_current_xact_id(),
    seq             bigint      NOT NULL GENERATED ALWAYS AS IDENTITY (INCREMENT BY 1 CACHE 1),
    occurred_at     timestamptz NOT NULL DEFAULT clock_timestamp() CHECK (occurred_at >= '0001-01-01 00:00:00+00' AND occurred_at < '10000-01-01 00:00:00+00'),
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    schema_version  integer     NOT NULL DEFAULT 1,
    partition       smallint    NOT NULL CHECK (partition BETWEEN 0 AND 7), -- what the function above says
    id              uuid        NOT NULL,
    aggregate_type  text        NOT NULL,
    aggregate_id    text        NOT NULL,
    type            text        NOT NULL,
    dedup_key       text COLLATE "C",     -- NULL: no dedup beyond the id
    content_type    text        NOT NULL DEFAULT 'application/json',
    headers         jsonb       NOT NULL DEFAULT '{}', -- an object of strings
    payload         bytea       NOT NULL, -- the bytes as given: jsonb would reorder and refuse some
    PRIMARY KEY (partition, seq),
    CHECK (headers = '{}' OR CASE jsonb_typeof(headers) WHEN 'object' THEN NOT jsonb_path_exists(headers, 'strict $.* ? (@.type() <> "string")') ELSE false END)
);
-- +goose StatementEnd
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_id" ON "endstate_outbox" (id);
-- +goose StatementEnd
-- Over all rows, published ones too: an index over unpublished rows stops deduplicating at the first publish.
-- +goose StatementBegin
CREATE UNIQUE INDEX "endstate_outbox_dedup" ON "endstate_outbox" (dedup_key);
-- +goose StatementEnd
-- Finds what a transaction wrote that was still open when a cursor passed it, by partition and seq: in one number, which takes a
-- quarter less than two, and which no other index can be asked for.
-- +goose StatementBegin
CREATE INDEX "endstate_outbox_txid" ON "endstate_outbox" (txid, ((partition::bigint << 56) + seq));
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_outbox";
-- +goose StatementEnd
-- +goose StatementBegin
DROP FUNCTION "endstate_outbox_partition"(text, text);
-- +goose StatementEnd
