-- Do: claim by guard 1
SELECT pg_current_xact_id()::text
FROM "billing"."charges"
WHERE "id" = $1::int8
AND "created_at" = $2
AND ("created_at" - "created_at") = interval '0'
AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
FOR NO KEY UPDATE;

-- Do: read the winner's record
SELECT endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $1::int8
	AND "created_at" = $2
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- Do: settle with no events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
SELECT
WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1;

-- Do: settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
FROM (
	SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $9::text, 1, $10::int2
	WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard);

-- Do: settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
FROM (
	SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $9::text, 1, $10::int2
	WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1
	UNION ALL
	SELECT $11::uuid, $12::text, $13::text, $14::text, $15::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $16::text, 1, $17::int2
	WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard);

-- Do: settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
FROM (
	SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, $9::text, $10::jsonb, coalesce($11::timestamptz, clock_timestamp()), $12::text, $13::int4, $14::int2
	WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard);

-- Do: settle with many events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
FROM (
	SELECT endstate_event.id::uuid, coalesce(endstate_event.aggregate_type, ($5::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($7::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($9::text[])[1]), coalesce(endstate_event.headers, ($10::text[])[1])::jsonb, coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($13::int4[])[1]),
	endstate_event.shard
	FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::text[], $10::text[], $11::timestamptz[], $12::text[], $13::int4[], $14::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard)
	WHERE 1 / coalesce((SELECT 1 FROM endstate_settle0), 0) = 1) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard);

-- Settle with no events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true)
SELECT (SELECT true FROM endstate_settle0),
endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- Settle with one usual event
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true),
endstate_events AS (
	INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
	SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
	FROM (
		SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $9::text, 1, $10::int2
		WHERE (SELECT true FROM endstate_settle0)) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard))
SELECT (SELECT true FROM endstate_settle0),
endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- Settle with two usual events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true),
endstate_events AS (
	INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
	SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
	FROM (
		SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $9::text, 1, $10::int2
		WHERE (SELECT true FROM endstate_settle0)
		UNION ALL
		SELECT $11::uuid, $12::text, $13::text, $14::text, $15::bytea, 'application/json', '{}'::jsonb, clock_timestamp(), $16::text, 1, $17::int2
		WHERE (SELECT true FROM endstate_settle0)) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard))
SELECT (SELECT true FROM endstate_settle0),
endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- Settle with one event of any kind
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true),
endstate_events AS (
	INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
	SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
	FROM (
		SELECT $4::uuid, $5::text, $6::text, $7::text, $8::bytea, $9::text, $10::jsonb, coalesce($11::timestamptz, clock_timestamp()), $12::text, $13::int4, $14::int2
		WHERE (SELECT true FROM endstate_settle0)) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard))
SELECT (SELECT true FROM endstate_settle0),
endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- Settle with many events
WITH endstate_settle0 AS (
	UPDATE "billing"."charges"
	SET "state" = $1
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0'
	AND ("state" IS NULL OR NOT (starts_with("state"::text COLLATE "C", 'DONE_')))
	RETURNING true),
endstate_events AS (
	INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
	SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
	FROM (
		SELECT endstate_event.id::uuid, coalesce(endstate_event.aggregate_type, ($5::text[])[1]),
		endstate_event.aggregate_id, coalesce(endstate_event.type, ($7::text[])[1]),
		endstate_event.payload, coalesce(endstate_event.content_type, ($9::text[])[1]), coalesce(endstate_event.headers, ($10::text[])[1])::jsonb, coalesce(endstate_event.occurred_at, clock_timestamp()),
		endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($13::int4[])[1]),
		endstate_event.shard
		FROM unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[], $9::text[], $10::text[], $11::timestamptz[], $12::text[], $13::int4[], $14::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard)
		WHERE (SELECT true FROM endstate_settle0)) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard))
SELECT (SELECT true FROM endstate_settle0),
endstate_p0.endstate_state
FROM (
	SELECT coalesce("state"::text, '') AS endstate_state
	FROM "billing"."charges"
	WHERE "id" = $2::int8
	AND "created_at" = $3
	AND ("created_at" - "created_at") = interval '0') AS endstate_p0;

-- SettleMany, and Settles that are gathered
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '30', true)),
endstate_item AS MATERIALIZED (
	SELECT (n - 1)::int4 AS endstate_n, endstate_part0, endstate_part1, endstate_place
	FROM unnest($13::int8[], array_cat(ARRAY(SELECT "created_at" FROM "billing"."charges" WHERE false), $14), $16::int4[]) WITH ORDINALITY AS endstate_calls (endstate_part0, endstate_part1, endstate_place, n)),
endstate_wanted AS MATERIALIZED (SELECT endstate_item.* FROM endstate_patience CROSS JOIN endstate_item),
endstate_hold0 AS MATERIALIZED (
	SELECT endstate_wanted.*, endstate_found.*
	FROM endstate_wanted
	CROSS JOIN LATERAL (
		SELECT endstate_row.ctid AS endstate_hold0_tid
		FROM "billing"."charges" AS endstate_row
		WHERE endstate_row."id" = endstate_wanted.endstate_part0::int8
		AND endstate_row."created_at" = endstate_wanted.endstate_part1
		AND (endstate_row."created_at" - endstate_row."created_at") = interval '0'
		AND (endstate_row."state" IS NULL OR NOT (starts_with(endstate_row."state"::text COLLATE "C", 'DONE_')))
		FOR NO KEY UPDATE SKIP LOCKED) AS endstate_found),
endstate_held AS MATERIALIZED (
	SELECT endstate_hold0.*, clock_timestamp() AS endstate_at
	FROM endstate_hold0),
endstate_settle0 AS (
	UPDATE "billing"."charges" AS endstate_row
	SET "state" = (array_cat(ARRAY[endstate_row."state"], $15))[2 + endstate_call.endstate_place]
	FROM endstate_held AS endstate_call
	WHERE endstate_row.ctid = ANY (ARRAY(SELECT endstate_hold0_tid FROM endstate_held))
	AND endstate_row.ctid = endstate_call.endstate_hold0_tid
	AND endstate_row."id" = endstate_call.endstate_part0::int8
	AND endstate_row."created_at" = endstate_call.endstate_part1
	AND (endstate_row."created_at" - endstate_row."created_at") = interval '0'
	AND (endstate_row."state" IS NULL OR NOT (starts_with(endstate_row."state"::text COLLATE "C", 'DONE_')))
	RETURNING endstate_call.*),
endstate_events AS (
	INSERT INTO "event_outbox" ("event_id", "aggregate_id", "event_type", "event_data")
	SELECT endstate_event.id, endstate_event.aggregate_id, endstate_event.type, convert_from(endstate_event.payload, 'UTF8')::json
	FROM (
		SELECT endstate_event.id::uuid, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
		endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
		endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::text[])[1])::jsonb, coalesce(endstate_event.occurred_at, clock_timestamp()),
		endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
		endstate_event.shard
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int4[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard, owner, place)
		WHERE (endstate_event.owner IN (SELECT endstate_n FROM endstate_settle0)) IS TRUE
		ORDER BY endstate_event.place) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, shard))
SELECT endstate_item.endstate_n, NULL::boolean, NULL::timestamptz, endstate_p0.endstate_state
FROM endstate_item
LEFT JOIN LATERAL (
	SELECT coalesce(endstate_row."state"::text, '') AS endstate_state
	FROM "billing"."charges" AS endstate_row
	WHERE endstate_row."id" = endstate_item.endstate_part0::int8
	AND endstate_row."created_at" = endstate_item.endstate_part1
	AND (endstate_row."created_at" - endstate_row."created_at") = interval '0' LIMIT 1) AS endstate_p0 ON true
WHERE endstate_item.endstate_n NOT IN (SELECT endstate_n FROM endstate_settle0)
UNION ALL
SELECT endstate_n, true, endstate_at, NULL
FROM endstate_settle0;
