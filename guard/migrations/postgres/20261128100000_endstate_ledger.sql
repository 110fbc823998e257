-- +goose Up
-- One row for each finalized aggregate, kept forever: it is what makes a repeat a loser after the outbox's rows are gone.
-- Rows are only inserted, never updated or deleted.
-- +goose StatementBegin
CREATE TABLE "endstate_ledger" (
    aggregate text        NOT NULL, -- the aggregate type's name
    "key"     text        NOT NULL, -- guard.Key.Encode
    state     text        NOT NULL, -- the terminal state
    "trigger" text        NOT NULL, -- who finalized it
    token     uuid        NOT NULL, -- of the attempt that won
    digest    bytea,                -- SHA-256 of the outcome
    at        timestamptz NOT NULL,
    PRIMARY KEY (aggregate, "key")
);
-- +goose StatementEnd
-- What was finalized lately: people ask, by the console.
-- +goose StatementBegin
CREATE INDEX "endstate_ledger_at" ON "endstate_ledger" (at);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_ledger";
-- +goose StatementEnd
