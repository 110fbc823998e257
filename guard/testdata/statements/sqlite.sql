-- # Status: a text key, states by name

-- Read
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text';

-- Claim
UPDATE "orders"
SET "status" = "status"
WHERE 0;
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text';

-- Settle
UPDATE "orders"
SET "status" = ?2, "completed_at" = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), "completed_by" = ?3, "done_at" = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text'
AND ("status" IS NULL OR NOT ("status" = 'PAID' COLLATE BINARY OR "status" = 'FAILED' COLLATE BINARY));
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text';

-- # Status: a key of every other kind, states by prefix

-- Read
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text'
AND "day" COLLATE BINARY = ?2
AND typeof("day") = 'text'
AND "created_at" COLLATE BINARY = ?3
AND typeof("created_at") = 'text'
AND "number" COLLATE BINARY = ?4
AND typeof("number") = 'integer'
AND "code" COLLATE BINARY = ?5
AND typeof("code") = 'blob';

-- Claim
UPDATE "billing"."charges"
SET "state" = "state"
WHERE 0;
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text'
AND "day" COLLATE BINARY = ?2
AND typeof("day") = 'text'
AND "created_at" COLLATE BINARY = ?3
AND typeof("created_at") = 'text'
AND "number" COLLATE BINARY = ?4
AND typeof("number") = 'integer'
AND "code" COLLATE BINARY = ?5
AND typeof("code") = 'blob';

-- Settle
UPDATE "billing"."charges"
SET "state" = ?6
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text'
AND "day" COLLATE BINARY = ?2
AND typeof("day") = 'text'
AND "created_at" COLLATE BINARY = ?3
AND typeof("created_at") = 'text'
AND "number" COLLATE BINARY = ?4
AND typeof("number") = 'integer'
AND "code" COLLATE BINARY = ?5
AND typeof("code") = 'blob'
AND ("state" IS NULL OR NOT (substr("state", 1, length('DONE_')) = 'DONE_' COLLATE BINARY));
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'text'
AND "day" COLLATE BINARY = ?2
AND typeof("day") = 'text'
AND "created_at" COLLATE BINARY = ?3
AND typeof("created_at") = 'text'
AND "number" COLLATE BINARY = ?4
AND typeof("number") = 'integer'
AND "code" COLLATE BINARY = ?5
AND typeof("code") = 'blob';

-- # Status: states by a function

-- Read
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'integer';

-- Claim
UPDATE "jobs"
SET "state" = "state"
WHERE 0;
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'integer';

-- Settle
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'integer';
UPDATE "jobs"
SET "state" = ?2
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'integer'
AND "state" IS ?3;
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" COLLATE BINARY = ?1
AND typeof("id") = 'integer';

-- # Ledger

-- Read
SELECT state, "trigger", token, at, digest
FROM "endstate_ledger"
WHERE aggregate = ?1
AND "key" = ?2;

-- Claim
UPDATE "endstate_ledger"
SET state = state
WHERE 0;
SELECT state, "trigger", token, at, digest
FROM "endstate_ledger"
WHERE aggregate = ?1
AND "key" = ?2;

-- Settle
INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
ON CONFLICT (aggregate, "key") DO NOTHING
RETURNING at, state;
