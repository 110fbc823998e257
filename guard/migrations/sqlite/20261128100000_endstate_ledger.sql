-- +goose Up
-- One row for each finalized aggregate, kept forever: it is what makes a repeat a loser after the outbox's rows are gone.
-- Rows are only inserted, never updated or deleted.
-- +goose StatementBegin
CREATE TABLE "endstate_ledger" (
    aggregate TEXT NOT NULL, -- the aggregate type's name
    "key"     TEXT NOT NULL, -- guard.Key.Encode
    state     TEXT NOT NULL, -- the terminal state
    "trigger" TEXT NOT NULL, -- who finalized it
    token     TEXT NOT NULL, -- of the attempt that won, a UUID
    digest    BLOB,          -- SHA-256 of the outcome
    at        TEXT NOT NULL, -- RFC 3339 in UTC
    PRIMARY KEY (aggregate, "key")
) WITHOUT ROWID;
-- +goose StatementEnd
-- What was finalized lately: people ask, by the console.
-- +goose StatementBegin
CREATE INDEX "endstate_ledger_at" ON "endstate_ledger" (at);
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TABLE "endstate_ledger";
-- +goose StatementEnd
