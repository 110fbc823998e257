-- # Status: a text key, states by name

-- Read
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''));

-- Claim
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''));
SELECT pg_current_xact_id()::text
FROM "orders"
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''))
AND "status"::text COLLATE "C" IS NOT DISTINCT FROM $2::text
FOR NO KEY UPDATE;

-- Settle
UPDATE "orders"
SET "status" = $2, "completed_at" = clock_timestamp(), "completed_by" = $3, "done_at" = clock_timestamp() AT TIME ZONE 'UTC'
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''))
AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')));
SELECT CAST("status" AS text)
FROM "orders"
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''));

-- # Status: a key of every other kind, states by prefix

-- Read
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" = $1::uuid
AND "day" = $2::date
AND ("day" - 1) IS NOT NULL
AND "created_at" = $3
AND ("created_at" - "created_at") = interval '0'
AND "number" = $4::int8
AND "code" = $5::bytea;

-- Claim
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" = $1::uuid
AND "day" = $2::date
AND ("day" - 1) IS NOT NULL
AND "created_at" = $3
AND ("created_at" - "created_at") = interval '0'
AND "number" = $4::int8
AND "code" = $5::bytea;
SELECT pg_current_xact_id()::text
FROM "billing"."charges"
WHERE "id" = $1::uuid
AND "day" = $2::date
AND ("day" - 1) IS NOT NULL
AND "created_at" = $3
AND ("created_at" - "created_at") = interval '0'
AND "number" = $4::int8
AND "code" = $5::bytea
AND "state"::text COLLATE "C" IS NOT DISTINCT FROM $6::text
FOR NO KEY UPDATE;

-- Settle
UPDATE "billing"."charges"
SET "state" = $6
WHERE "id" = $1::uuid
AND "day" = $2::date
AND ("day" - 1) IS NOT NULL
AND "created_at" = $3
AND ("created_at" - "created_at") = interval '0'
AND "number" = $4::int8
AND "code" = $5::bytea
AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')));
SELECT CAST("state" AS text)
FROM "billing"."charges"
WHERE "id" = $1::uuid
AND "day" = $2::date
AND ("day" - 1) IS NOT NULL
AND "created_at" = $3
AND ("created_at" - "created_at") = interval '0'
AND "number" = $4::int8
AND "code" = $5::bytea;

-- # Status: states by a function

-- Read
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" = $1::int8;

-- Claim
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" = $1::int8;
SELECT pg_current_xact_id()::text
FROM "jobs"
WHERE "id" = $1::int8
AND "state"::text COLLATE "C" IS NOT DISTINCT FROM $2::text
FOR NO KEY UPDATE;

-- Settle
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" = $1::int8;
UPDATE "jobs"
SET "state" = $2
WHERE "id" = $1::int8
AND "state"::text COLLATE "C" IS NOT DISTINCT FROM $3::text;
SELECT CAST("state" AS text)
FROM "jobs"
WHERE "id" = $1::int8;

-- # Ledger

-- Read
SELECT state, "trigger", token::text, at, digest
FROM "endstate_ledger"
WHERE aggregate = $1::text
AND "key" = $2::text;

-- Claim
SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
WHERE NOT EXISTS (
	SELECT
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text);
SELECT pg_current_xact_id()::text
WHERE NOT EXISTS (
	SELECT
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text);

-- Settle
INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
VALUES ($1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp())
ON CONFLICT (aggregate, "key") DO NOTHING
RETURNING at, state;
