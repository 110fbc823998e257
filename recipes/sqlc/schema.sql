CREATE TABLE batches (
    id text PRIMARY KEY,
    status text NOT NULL,
    note text NOT NULL DEFAULT '',
    version integer NOT NULL DEFAULT 1,
    deleted_at timestamp
);
