-- Do: claim by guard 1
SELECT pg_current_xact_id()::text
FROM "orders"
WHERE "id" = $1::uuid
AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
FOR NO KEY UPDATE;

-- Do: read the winner's record
SELECT endstate_p0.endstate_state
FROM (
	SELECT coalesce("status"::text, '') AS endstate_state
	FROM "orders"
	WHERE "id" = $1::uuid) AS endstate_p0;

-- Do: settle with no events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
SELECT
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $6::uuid, $7::text, $8::text, $9::text, $10::bytea, 'application/json', $11::jsonb, clock_timestamp(), $12::text, 1, $13::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($6::uuid, $7::text, $8::text, $9::text, $10::bytea, 'application/json', $11::jsonb, clock_timestamp(), $12::text, 1, $13::int2), ($14::uuid, $15::text, $16::text, $17::text, $18::bytea, 'application/json', $19::jsonb, clock_timestamp(), $20::text, 1, $21::int2)) AS endstate_values
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $6::uuid, $7::text, $8::text, $9::text, $10::bytea, $11::text, $12::jsonb, coalesce($13::timestamptz, clock_timestamp()), $14::text, $15::int4, $16::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with many events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($7::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($9::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($11::text[])[1]), coalesce(endstate_event.headers, ($12::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($15::int4[])[1]),
endstate_event.partition
FROM unnest($6::uuid[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::text[], $12::jsonb[], $13::timestamptz[], $14::text[], $15::int4[], $16::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.endstate_state, 200), 'UTF8'), 'hex') FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: look again, where triggers may have changed what was settled
SELECT (coalesce((SELECT CASE WHEN endstate_p0.endstate_state COLLATE "C" IS DISTINCT FROM $1::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_p0.endstate_state, 200), 'UTF8'), 'hex'), '') ELSE 'true' END FROM (SELECT coalesce("status"::text, '') AS endstate_state FROM "orders" WHERE "id" = $3::uuid) AS endstate_p0), 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_'))::pg_catalog.json IS NOT NULL;

-- Settle with no events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
SELECT
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0);

-- Settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $6::uuid, $7::text, $8::text, $9::text, $10::bytea, 'application/json', $11::jsonb, clock_timestamp(), $12::text, 1, $13::int2
FROM endstate_settle0
WHERE CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END;

-- Settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($6::uuid, $7::text, $8::text, $9::text, $10::bytea, 'application/json', $11::jsonb, clock_timestamp(), $12::text, 1, $13::int2), ($14::uuid, $15::text, $16::text, $17::text, $18::bytea, 'application/json', $19::jsonb, clock_timestamp(), $20::text, 1, $21::int2)) AS endstate_values
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0);

-- Settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $6::uuid, $7::text, $8::text, $9::text, $10::bytea, $11::text, $12::jsonb, coalesce($13::timestamptz, clock_timestamp()), $14::text, $15::int4, $16::int2
FROM endstate_settle0
WHERE CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END;

-- Settle with many events
WITH endstate_settle0 AS (
	UPDATE "orders"
	SET "status" = $1, "completed_at" = clock_timestamp(), "completed_by" = $2
	WHERE "id" = $3::uuid
	AND ("status" IS NULL OR NOT ("status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING "status"::text COLLATE "C" AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($7::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($9::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($11::text[])[1]), coalesce(endstate_event.headers, ($12::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($15::int4[])[1]),
endstate_event.partition
FROM unnest($6::uuid[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::text[], $12::jsonb[], $13::timestamptz[], $14::text[], $15::int4[], $16::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $4::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $4::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0);

-- SettleMany, and Settles that are gathered, with one usual event each
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, coalesce(endstate_place, ($2::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($3::text[])[1]) AS endstate_trigger, endstate_part0, coalesce(endstate_state, ($5::text[])[1]) AS endstate_state, endstate_event_id, coalesce(endstate_event_aggregate_type, ($7::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($9::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($11::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest($2::int4[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::jsonb[], $12::text[], $13::int2[]) WITH ORDINALITY AS endstate_calls (endstate_place, endstate_trigger, endstate_part0, endstate_state, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $1))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_item AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0::uuid
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle0)
SELECT CASE WHEN count(*) < $15::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $15::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($14::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with one usual event each: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_part0, coalesce(endstate_place, ($3::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($4::text[])[1]) AS endstate_trigger, coalesce(endstate_state, ($5::text[])[1]) AS endstate_state, endstate_event_id, coalesce(endstate_event_aggregate_type, ($7::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($9::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($11::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest($1::text[], $3::int4[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::text[], $10::bytea[], $11::jsonb[], $12::text[], $13::int2[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_place, endstate_trigger, endstate_state, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_hold0 AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	CROSS JOIN LATERAL (
		SELECT
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0::uuid
		AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
		FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $2))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_hold0 AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0::uuid
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle0)
SELECT CASE WHEN count(*) < $15::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $15::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($14::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany, and Settles that are gathered, with any events
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, coalesce(endstate_place, ($14::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($15::text[])[1]) AS endstate_trigger, endstate_part0, coalesce(endstate_state, ($17::text[])[1]) AS endstate_state
	FROM endstate_patience
	CROSS JOIN unnest($14::int4[], $15::text[], $16::text[], $17::text[]) WITH ORDINALITY AS endstate_calls (endstate_place, endstate_trigger, endstate_part0, endstate_state, endstate_n)),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (
		SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $13))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_item AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0::uuid
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle0)) IS TRUE)
SELECT CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($18::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with any events: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_part0, coalesce(endstate_place, ($15::int4[])[1]) AS endstate_place, coalesce(endstate_trigger, ($16::text[])[1]) AS endstate_trigger, coalesce(endstate_state, ($17::text[])[1]) AS endstate_state
	FROM endstate_patience
	CROSS JOIN unnest($13::text[], $15::int4[], $16::text[], $17::text[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_place, endstate_trigger, endstate_state, endstate_n)),
endstate_hold0 AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	CROSS JOIN LATERAL (
		SELECT
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0::uuid
		AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
		FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found),
endstate_settle0 AS (
	UPDATE "orders" AS endstate_row
	SET "status" = (
		SELECT array_cat(ARRAY(SELECT "status" FROM "orders" WHERE false), $14))[endstate_call.endstate_place], "completed_at" = clock_timestamp(), "completed_by" = endstate_call.endstate_trigger
	FROM endstate_hold0 AS endstate_call
	WHERE endstate_row."id" = endstate_call.endstate_part0::uuid
	AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID', 'FAILED')))
	RETURNING endstate_call.*, endstate_row."status"::text COLLATE "C" = endstate_call.endstate_state AS endstate_settle0_said),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle0)) IS TRUE)
SELECT CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $19::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT coalesce(bool_and(endstate_settle0_said IS TRUE), true) AND count(*) = count(DISTINCT endstate_n) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($18::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany: read the winners' records
WITH endstate_item AS (
	SELECT endstate_n, endstate_part0
	FROM unnest($1::text[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_n))
SELECT endstate_n, endstate_p0.endstate_state
FROM endstate_item
LEFT JOIN LATERAL (
	SELECT coalesce(endstate_row."status"::text, '') AS endstate_state
	FROM "orders" AS endstate_row
	WHERE endstate_row."id" = endstate_item.endstate_part0::uuid LIMIT 1) AS endstate_p0 ON true;

-- SettleMany: look again
WITH endstate_item AS (
	SELECT endstate_n, coalesce(endstate_state, ($1::text[])[1]) AS endstate_state, endstate_part0
	FROM unnest($1::text[], $3::text[]) WITH ORDINALITY AS endstate_calls (endstate_state, endstate_part0, endstate_n)),
endstate_changed AS MATERIALIZED (
	SELECT 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') AS endstate_signal
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT coalesce(endstate_row."status"::text, '') AS endstate_state
		FROM "orders" AS endstate_row
		WHERE endstate_row."id" = endstate_item.endstate_part0::uuid LIMIT 1) AS endstate_p0 ON true
	WHERE (current_setting('endstate.moved') = '' OR endstate_n IN (SELECT unnest(nullif(current_setting('endstate.moved'), '')::int8[])))
	AND (endstate_p0.endstate_state COLLATE "C" = endstate_item.endstate_state) IS NOT TRUE LIMIT 1)
SELECT (coalesce((SELECT endstate_signal FROM endstate_changed), 'true'))::pg_catalog.json IS NOT NULL;
