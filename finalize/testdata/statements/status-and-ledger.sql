-- Do: claim by guard 1
SELECT pg_current_xact_id()::text
FROM "orders"
WHERE "id" = $1
AND octet_length($1) = octet_length(translate("id", '', ''))
AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
FOR NO KEY UPDATE;

-- Do: claim by guard 2
SELECT pg_current_xact_id()::text
WHERE NOT EXISTS (
	SELECT
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text);

-- Do: read the winner's record
SELECT endstate_p0.endstate_state, endstate_p1.state, endstate_p1.trigger, endstate_p1.token, endstate_p1.at, endstate_p1.digest
FROM (
	SELECT coalesce("status"::text, '') AS endstate_state
	FROM "orders"
	WHERE "id" = $1
	AND octet_length($1) = octet_length(translate("id", '', ''))) AS endstate_p0
LEFT JOIN (
	SELECT state, "trigger", token::text, at, digest
	FROM "endstate_ledger"
	WHERE aggregate = $2::text
	AND "key" = $3::text) AS endstate_p1 ON true;

-- Do: settle with no events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
SELECT (SELECT at FROM endstate_settle1)
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true) THEN true ELSE ('endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $5 AND octet_length($5) = octet_length(translate("id", '', ''))) AS endstate_row), '') || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $10::uuid, $11::text, $12::text, $13::text, $14::bytea, 'application/json', $15::jsonb, clock_timestamp(), $16::text, 1, $17::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true) THEN true ELSE ('endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $5 AND octet_length($5) = octet_length(translate("id", '', ''))) AS endstate_row), '') || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Do: settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($10::uuid, $11::text, $12::text, $13::text, $14::bytea, 'application/json', $15::jsonb, clock_timestamp(), $16::text, 1, $17::int2), ($18::uuid, $19::text, $20::text, $21::text, $22::bytea, 'application/json', $23::jsonb, clock_timestamp(), $24::text, 1, $25::int2)) AS endstate_values
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true) THEN true ELSE ('endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $5 AND octet_length($5) = octet_length(translate("id", '', ''))) AS endstate_row), '') || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Do: settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $10::uuid, $11::text, $12::text, $13::text, $14::bytea, $15::text, $16::jsonb, coalesce($17::timestamptz, clock_timestamp()), $18::text, $19::int4, $20::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true) THEN true ELSE ('endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $5 AND octet_length($5) = octet_length(translate("id", '', ''))) AS endstate_row), '') || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Do: settle with many events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($11::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($13::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($15::text[])[1]), coalesce(endstate_event.headers, ($16::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($19::int4[])[1]),
endstate_event.partition
FROM unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::text[], $16::jsonb[], $17::timestamptz[], $18::text[], $19::int4[], $20::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true) THEN true ELSE ('endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $5 AND octet_length($5) = octet_length(translate("id", '', ''))) AS endstate_row), '') || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Do: look again, where triggers may have changed what was settled
SELECT (coalesce((SELECT CASE WHEN endstate_p0.endstate_state COLLATE "C" IS DISTINCT FROM $1::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_p0.endstate_state, 200), 'UTF8'), 'hex'), '') WHEN endstate_p1.state COLLATE "C" IS DISTINCT FROM $1::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_p1.state, 200), 'UTF8'), 'hex'), '') WHEN endstate_p1.token IS DISTINCT FROM $2::uuid::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_p' ELSE 'true' END FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3 AND octet_length($3) = octet_length(translate("id", '', ''))) AS endstate_p0 LEFT JOIN (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $4::text AND "key" = $5::text) AS endstate_p1 ON true), 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_'))::pg_catalog.json IS NOT NULL;

-- Settle with no events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
SELECT (SELECT at FROM endstate_settle1)
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true);

-- Settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $10::uuid, $11::text, $12::text, $13::text, $14::bytea, 'application/json', $15::jsonb, clock_timestamp(), $16::text, 1, $17::int2
FROM endstate_settle0
LEFT JOIN endstate_settle1 ON true
WHERE CASE WHEN endstate_settle0.endstate_said = $6::text
AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($10::uuid, $11::text, $12::text, $13::text, $14::bytea, 'application/json', $15::jsonb, clock_timestamp(), $16::text, 1, $17::int2), ($18::uuid, $19::text, $20::text, $21::text, $22::bytea, 'application/json', $23::jsonb, clock_timestamp(), $24::text, 1, $25::int2)) AS endstate_values
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true)
RETURNING (SELECT at FROM endstate_settle1);

-- Settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $10::uuid, $11::text, $12::text, $13::text, $14::bytea, $15::text, $16::jsonb, coalesce($17::timestamptz, clock_timestamp()), $18::text, $19::int4, $20::int2
FROM endstate_settle0
LEFT JOIN endstate_settle1 ON true
WHERE CASE WHEN endstate_settle0.endstate_said = $6::text
AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle1);

-- Settle with many events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $3, "completed_at" = clock_timestamp(), "completed_by" = $4
	WHERE "id" = $5
	AND octet_length($5) = octet_length(translate("id", '', ''))
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	AND NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)
	RETURNING "status"::text COLLATE "C" AS endstate_said),
endstate_settle1 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $6::text, $7::text, $8::uuid, $9::bytea, clock_timestamp()
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $8::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($11::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($13::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($15::text[])[1]), coalesce(endstate_event.headers, ($16::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($19::int4[])[1]),
endstate_event.partition
FROM unnest($10::uuid[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::text[], $16::jsonb[], $17::timestamptz[], $18::text[], $19::int4[], $20::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $6::text
	AND endstate_settle1.endstate_said = $6::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') WHEN NOT EXISTS (SELECT FROM endstate_settle1) THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_p' WHEN endstate_settle1.endstate_said IS DISTINCT FROM $6::text THEN 'endstate_' || pg_catalog.replace($8::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle1.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0
	LEFT JOIN endstate_settle1 ON true)
RETURNING (SELECT at FROM endstate_settle1);

-- SettleMany, and Settles that are gathered, with one usual event each
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, coalesce(endstate_place, ($2::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($3::text[])[1]) AS endstate_trigger, endstate_part0, coalesce(endstate_state, ($5::text[])[1]) AS endstate_state, endstate_key, endstate_token, endstate_digest, endstate_event_id, coalesce(endstate_event_aggregate_type, ($11::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($13::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($15::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest($2::int4[], $3::text[], array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $4), $5::text[], $7::text[], $8::uuid[], $9::bytea[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::jsonb[], $16::text[], $17::int2[]) WITH ORDINALITY AS endstate_calls (endstate_place, endstate_trigger, endstate_part0, endstate_state, endstate_key, endstate_token, endstate_digest, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $1))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_item AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0
	AND octet_length(endstate_call.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_settle1_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $6::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle1 AS MATERIALIZED (
	SELECT *
	FROM endstate_settle0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle1_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle1)
SELECT CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle1 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) AND (SELECT count(*) FROM endstate_settle1_entry) = (SELECT count(*) FROM endstate_settle1) AND (SELECT count(*) FROM endstate_settle1) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($18::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with one usual event each: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_part0, endstate_key, coalesce(endstate_place, ($5::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($6::text[])[1]) AS endstate_trigger, coalesce(endstate_state, ($7::text[])[1]) AS endstate_state, endstate_token, endstate_digest, endstate_event_id, coalesce(endstate_event_aggregate_type, ($11::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($13::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($15::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest(array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $1), $3::text[], $5::int4[], $6::text[], $7::text[], $8::uuid[], $9::bytea[], $10::uuid[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::jsonb[], $16::text[], $17::int2[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_key, endstate_place, endstate_trigger, endstate_state, endstate_token, endstate_digest, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_hold0 AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	CROSS JOIN LATERAL (
		SELECT
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0
		AND octet_length(endstate_item.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
		AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
		FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found),
endstate_hold1 AS MATERIALIZED (
	SELECT endstate_hold0.*
	FROM endstate_hold0
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $2::text
		AND "key" = endstate_hold0.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $4))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_hold1 AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0
	AND octet_length(endstate_call.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_settle1_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $2::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle1 AS MATERIALIZED (
	SELECT *
	FROM endstate_settle0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle1_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle1)
SELECT CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle1 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) AND (SELECT count(*) FROM endstate_settle1_entry) = (SELECT count(*) FROM endstate_settle1) AND (SELECT count(*) FROM endstate_settle1) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($18::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany, and Settles that are gathered, with any events
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, coalesce(endstate_place, ($14::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($15::text[])[1]) AS endstate_trigger, endstate_part0, coalesce(endstate_state, ($17::text[])[1]) AS endstate_state, endstate_key, endstate_token, endstate_digest
	FROM endstate_patience
	CROSS JOIN unnest($14::int4[], $15::text[], array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $16), $17::text[], $19::text[], $20::uuid[], $21::bytea[]) WITH ORDINALITY AS endstate_calls (endstate_place, endstate_trigger, endstate_part0, endstate_state, endstate_key, endstate_token, endstate_digest, endstate_n)),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (
		SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $13))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_item AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0
	AND octet_length(endstate_call.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_settle1_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $18::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle1 AS MATERIALIZED (
	SELECT *
	FROM endstate_settle0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle1_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle1)) IS TRUE)
SELECT CASE WHEN count(*) < $23::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $23::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle1 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) AND (SELECT count(*) FROM endstate_settle1_entry) = (SELECT count(*) FROM endstate_settle1) AND (SELECT count(*) FROM endstate_settle1) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($22::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with any events: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_part0, endstate_key, coalesce(endstate_place, ($17::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($18::text[])[1]) AS endstate_trigger, coalesce(endstate_state, ($19::text[])[1]) AS endstate_state, endstate_token, endstate_digest
	FROM endstate_patience
	CROSS JOIN unnest(array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $13), $15::text[], $17::int4[], $18::text[], $19::text[], $20::uuid[], $21::bytea[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_key, endstate_place, endstate_trigger, endstate_state, endstate_token, endstate_digest, endstate_n)),
endstate_hold0 AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	CROSS JOIN LATERAL (
		SELECT
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0
		AND octet_length(endstate_item.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
		AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
		FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found),
endstate_hold1 AS MATERIALIZED (
	SELECT endstate_hold0.*
	FROM endstate_hold0
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $14::text
		AND "key" = endstate_hold0.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (
		SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $16))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_hold1 AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0
	AND octet_length(endstate_call.endstate_part0) = octet_length(translate(endstate_row."id", '', ''))
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_settle1_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $14::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_settle0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle1 AS MATERIALIZED (
	SELECT *
	FROM endstate_settle0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle1_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle1)) IS TRUE)
SELECT CASE WHEN count(*) < $23::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $23::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle1 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) AND (SELECT count(*) FROM endstate_settle1_entry) = (SELECT count(*) FROM endstate_settle1) AND (SELECT count(*) FROM endstate_settle1) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($22::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany: read the winners' records
WITH endstate_item AS (
	SELECT endstate_n, endstate_part0, endstate_key
	FROM unnest(array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $1), $3::text[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_key, endstate_n))
SELECT endstate_n, endstate_p0.endstate_state, endstate_p1.state, endstate_p1.trigger, endstate_p1.token, endstate_p1.at, endstate_p1.digest
FROM endstate_item
LEFT JOIN LATERAL (
	SELECT coalesce(endstate_row."status"::text, '') AS endstate_state
	FROM "orders" AS endstate_row
	WHERE endstate_row."id" = endstate_item.endstate_part0
	AND octet_length(endstate_item.endstate_part0) = octet_length(translate(endstate_row."id", '', '')) LIMIT 1) AS endstate_p0 ON true
LEFT JOIN LATERAL (
	SELECT state, "trigger", token::text, at, digest
	FROM "endstate_ledger"
	WHERE aggregate = $2::text
	AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_p1 ON true;

-- SettleMany: look again
WITH endstate_item AS (
	SELECT endstate_n, coalesce(endstate_state, ($1::text[])[1]) AS endstate_state, endstate_token, endstate_part0, endstate_key
	FROM unnest($1::text[], $2::uuid[], array_cat(ARRAY(SELECT "id" FROM "orders" WHERE false), $4), $6::text[]) WITH ORDINALITY AS endstate_calls (endstate_state, endstate_token, endstate_part0, endstate_key, endstate_n)),
endstate_changed AS MATERIALIZED (
	SELECT 'endstate_' || pg_catalog.replace($3::uuid::text, '-', '') AS endstate_signal
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT coalesce(endstate_row."status"::text, '') AS endstate_state
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0
		AND octet_length(endstate_item.endstate_part0) = octet_length(translate(endstate_row."id", '', '')) LIMIT 1) AS endstate_p0 ON true
	LEFT JOIN LATERAL (
		SELECT state, "trigger", token::text, at, digest
		FROM "endstate_ledger"
		WHERE aggregate = $5::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_p1 ON true
	WHERE (current_setting('endstate.moved') = '' OR endstate_n IN (SELECT unnest(nullif(current_setting('endstate.moved'), '')::int8[])))
	AND (endstate_p0.endstate_state COLLATE "C" = endstate_item.endstate_state AND endstate_p1.state COLLATE "C" = endstate_item.endstate_state AND endstate_p1.token = endstate_item.endstate_token::text) IS NOT TRUE LIMIT 1)
SELECT (coalesce((SELECT endstate_signal FROM endstate_changed), 'true'))::pg_catalog.json IS NOT NULL;
