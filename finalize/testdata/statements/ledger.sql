-- Do: claim by guard 1
SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
WHERE NOT EXISTS (
	SELECT
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text);

-- Do: claim by guard 1
SELECT pg_current_xact_id()::text
WHERE NOT EXISTS (
	SELECT
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text);

-- Do: read the winner's record
SELECT endstate_p0.state, endstate_p0.trigger, endstate_p0.token, endstate_p0.at, endstate_p0.digest
FROM (VALUES (1)) AS endstate_one (n)
LEFT JOIN (
	SELECT state, "trigger", token::text, at, digest
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = $2::text) AS endstate_p0 ON true;

-- Do: settle with no events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
SELECT (SELECT at FROM endstate_settle0)
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END;

-- Do: settle with one usual event
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $7::uuid, $8::text, $9::text, $10::text, $11::bytea, 'application/json', $12::jsonb, clock_timestamp(), $13::text, 1, $14::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Do: settle with two usual events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($7::uuid, $8::text, $9::text, $10::text, $11::bytea, 'application/json', $12::jsonb, clock_timestamp(), $13::text, 1, $14::int2), ($15::uuid, $16::text, $17::text, $18::text, $19::bytea, 'application/json', $20::jsonb, clock_timestamp(), $21::text, 1, $22::int2)) AS endstate_values
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Do: settle with one event of any kind
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $7::uuid, $8::text, $9::text, $10::text, $11::bytea, $12::text, $13::jsonb, coalesce($14::timestamptz, clock_timestamp()), $15::text, $16::int4, $17::int2
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Do: settle with many events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($8::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($10::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($12::text[])[1]), coalesce(endstate_event.headers, ($13::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($16::int4[])[1]),
endstate_event.partition
FROM unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[], $13::jsonb[], $14::timestamptz[], $15::text[], $16::int4[], $17::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE CASE WHEN (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0) THEN true ELSE ('endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_u' || '_' || coalesce((SELECT 'x' || pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_row.state, 200), 'UTF8'), 'hex') FROM (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $1::text AND "key" = $2::text) AS endstate_row), ''))::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Do: look again, where triggers may have changed what was settled
SELECT (coalesce((SELECT CASE WHEN endstate_p0.state COLLATE "C" IS DISTINCT FROM $1::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_p0.state, 200), 'UTF8'), 'hex'), '') WHEN endstate_p0.token IS DISTINCT FROM $2::uuid::text THEN 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_p' ELSE 'true' END FROM (VALUES (1)) AS endstate_one (n) LEFT JOIN (SELECT state, "trigger", token::text, at, digest FROM "endstate_ledger" WHERE aggregate = $3::text AND "key" = $4::text) AS endstate_p0 ON true), 'endstate_' || pg_catalog.replace($2::uuid::text, '-', '') || '_s_'))::pg_catalog.json IS NOT NULL;

-- Settle with no events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
SELECT (SELECT at FROM endstate_settle0)
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0);

-- Settle with one usual event
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $7::uuid, $8::text, $9::text, $10::text, $11::bytea, 'application/json', $12::jsonb, clock_timestamp(), $13::text, 1, $14::int2
FROM endstate_settle0
WHERE CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Settle with two usual events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT *
FROM (
	VALUES ($7::uuid, $8::text, $9::text, $10::text, $11::bytea, 'application/json', $12::jsonb, clock_timestamp(), $13::text, 1, $14::int2), ($15::uuid, $16::text, $17::text, $18::text, $19::bytea, 'application/json', $20::jsonb, clock_timestamp(), $21::text, 1, $22::int2)) AS endstate_values
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0)
RETURNING (SELECT at FROM endstate_settle0);

-- Settle with one event of any kind
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT $7::uuid, $8::text, $9::text, $10::text, $11::bytea, $12::text, $13::jsonb, coalesce($14::timestamptz, clock_timestamp()), $15::text, $16::int4, $17::int2
FROM endstate_settle0
WHERE CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
RETURNING (SELECT at FROM endstate_settle0);

-- Settle with many events
WITH endstate_settle0_lock AS MATERIALIZED (
	SELECT pg_advisory_xact_lock(hashtextextended($1::text || '/' || $2::text, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))
	WHERE NOT EXISTS (
		SELECT
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = $2::text)),
endstate_settle0 AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, $2::text, $3::text, $4::text, $5::uuid, $6::bytea, clock_timestamp()
	FROM endstate_settle0_lock
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING at, CASE WHEN aggregate = $1::text
	AND "key" = $2::text
	AND token = $5::uuid THEN state COLLATE "C" END AS endstate_said)
INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($8::text[])[1]),
endstate_event.aggregate_id, coalesce(endstate_event.type, ($10::text[])[1]),
endstate_event.payload, coalesce(endstate_event.content_type, ($12::text[])[1]), coalesce(endstate_event.headers, ($13::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($16::int4[])[1]),
endstate_event.partition
FROM unnest($7::uuid[], $8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[], $13::jsonb[], $14::timestamptz[], $15::text[], $16::int4[], $17::int2[]) AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
WHERE (
	SELECT CASE WHEN endstate_settle0.endstate_said = $3::text THEN true ELSE (CASE WHEN endstate_settle0.endstate_said IS DISTINCT FROM $3::text THEN 'endstate_' || pg_catalog.replace($5::uuid::text, '-', '') || '_s_' || coalesce(pg_catalog.encode(pg_catalog.convert_to(pg_catalog.left(endstate_settle0.endstate_said, 200), 'UTF8'), 'hex'), '') ELSE 'true' END)::pg_catalog.json IS NOT NULL END
	FROM endstate_settle0)
RETURNING (SELECT at FROM endstate_settle0);

-- SettleMany, and Settles that are gathered, with one usual event each
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_key, coalesce(endstate_state, ($3::text[])[1]) AS endstate_state, coalesce(endstate_trigger, ($4::text[])[1]) AS endstate_trigger, endstate_token, endstate_digest, endstate_event_id, coalesce(endstate_event_aggregate_type, ($8::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($10::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($12::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest($2::text[], $3::text[], $4::text[], $5::uuid[], $6::bytea[], $7::uuid[], $8::text[], $9::text[], $10::text[], $11::bytea[], $12::jsonb[], $13::text[], $14::int2[]) WITH ORDINALITY AS endstate_calls (endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_hold0_open AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_hold0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0_open
	WHERE pg_try_advisory_xact_lock(hashtextextended($1::text || '/' || endstate_key, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))),
endstate_settle0_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_hold0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle0_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle0)
SELECT CASE WHEN count(*) < $16::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $16::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT count(*) FROM endstate_settle0_entry) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($15::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with one usual event each: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_key, coalesce(endstate_state, ($3::text[])[1]) AS endstate_state, coalesce(endstate_trigger, ($4::text[])[1]) AS endstate_trigger, endstate_token, endstate_digest, endstate_event_id, coalesce(endstate_event_aggregate_type, ($8::text[])[1]) AS endstate_event_aggregate_type, endstate_event_aggregate_id, coalesce(endstate_event_type, ($10::text[])[1]) AS endstate_event_type, endstate_event_payload, coalesce(endstate_event_headers, ($12::jsonb[])[1]) AS endstate_event_headers, endstate_event_dedup_key, endstate_event_partition
	FROM endstate_patience
	CROSS JOIN unnest($2::text[], $3::text[], $4::text[], $5::uuid[], $6::bytea[], $7::uuid[], $8::text[], $9::text[], $10::text[], $11::bytea[], $12::jsonb[], $13::text[], $14::int2[]) WITH ORDINALITY AS endstate_calls (endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, endstate_event_headers, endstate_event_dedup_key, endstate_event_partition, endstate_n)),
endstate_hold0_open AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $1::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_hold0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0_open
	WHERE pg_try_advisory_xact_lock(hashtextextended($1::text || '/' || endstate_key, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))),
endstate_settle0_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $1::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_hold0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle0_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event_id, endstate_event_aggregate_type, endstate_event_aggregate_id, endstate_event_type, endstate_event_payload, 'application/json', endstate_event_headers, clock_timestamp(),
	endstate_event_dedup_key, 1, endstate_event_partition
	FROM endstate_settle0)
SELECT CASE WHEN count(*) < $16::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $16::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT count(*) FROM endstate_settle0_entry) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($15::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany, and Settles that are gathered, with any events
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_key, coalesce(endstate_state, ($15::text[])[1]) AS endstate_state, coalesce(endstate_trigger, ($16::text[])[1]) AS endstate_trigger, endstate_token, endstate_digest
	FROM endstate_patience
	CROSS JOIN unnest($14::text[], $15::text[], $16::text[], $17::uuid[], $18::bytea[]) WITH ORDINALITY AS endstate_calls (endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, endstate_n)),
endstate_hold0_open AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $13::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_hold0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0_open
	WHERE pg_try_advisory_xact_lock(hashtextextended($13::text || '/' || endstate_key, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))),
endstate_settle0_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $13::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_hold0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle0_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle0)) IS TRUE)
SELECT CASE WHEN count(*) < $20::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $20::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT count(*) FROM endstate_settle0_entry) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($19::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany with any events: where a row was held elsewhere
WITH endstate_patience AS MATERIALIZED (SELECT set_config('lock_timeout', '10', true)),
endstate_time AS MATERIALIZED (SELECT clock_timestamp() AS endstate_at),
endstate_item AS (
	SELECT endstate_n, endstate_key, coalesce(endstate_state, ($15::text[])[1]) AS endstate_state, coalesce(endstate_trigger, ($16::text[])[1]) AS endstate_trigger, endstate_token, endstate_digest
	FROM endstate_patience
	CROSS JOIN unnest($14::text[], $15::text[], $16::text[], $17::uuid[], $18::bytea[]) WITH ORDINALITY AS endstate_calls (endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, endstate_n)),
endstate_hold0_open AS MATERIALIZED (
	SELECT endstate_item.*
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT true
		FROM "endstate_ledger"
		WHERE aggregate = $13::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_entry (there) ON true
	WHERE endstate_entry.there IS NULL),
endstate_hold0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0_open
	WHERE pg_try_advisory_xact_lock(hashtextextended($13::text || '/' || endstate_key, 1701733491 + '"endstate_ledger"'::regclass::oid::int8))),
endstate_settle0_entry AS (
	INSERT INTO "endstate_ledger" (aggregate, "key", state, "trigger", token, digest, at)
	SELECT $13::text, endstate_key, endstate_state, endstate_trigger, endstate_token, endstate_digest, (SELECT endstate_at FROM endstate_time)
	FROM endstate_hold0
	ON CONFLICT (aggregate, "key") DO NOTHING
	RETURNING "key", state COLLATE "C" AS endstate_said),
endstate_settle0 AS MATERIALIZED (
	SELECT *
	FROM endstate_hold0
	WHERE ((endstate_key, endstate_state) IN (SELECT "key", endstate_said FROM endstate_settle0_entry)) IS TRUE),
endstate_events AS (
	INSERT INTO "endstate_outbox" (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition)
	SELECT endstate_event.id, coalesce(endstate_event.aggregate_type, ($2::text[])[1]),
	endstate_event.aggregate_id, coalesce(endstate_event.type, ($4::text[])[1]),
	endstate_event.payload, coalesce(endstate_event.content_type, ($6::text[])[1]), coalesce(endstate_event.headers, ($7::jsonb[])[1]), coalesce(endstate_event.occurred_at, clock_timestamp()),
	endstate_event.dedup_key, coalesce(endstate_event.schema_version, ($10::int4[])[1]),
	endstate_event.partition
	FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::jsonb[], $8::timestamptz[], $9::text[], $10::int4[], $11::int2[], $12::int8[]) WITH ORDINALITY AS endstate_event (id, aggregate_type, aggregate_id, type, payload, content_type, headers, occurred_at, dedup_key, schema_version, partition, owner, place)
	WHERE (coalesce(endstate_event.owner, endstate_event.place) IN (SELECT endstate_n FROM endstate_settle0)) IS TRUE)
SELECT CASE WHEN count(*) < $20::int8 THEN coalesce(array_agg(endstate_n), '{}') END, set_config('endstate.moved', coalesce((CASE WHEN count(*) < $20::int8 THEN coalesce(array_agg(endstate_n), '{}') END)::text, ''), true), (SELECT endstate_at FROM endstate_time)
FROM endstate_settle0 HAVING (CASE WHEN (SELECT count(*) FROM endstate_settle0_entry) = (SELECT count(*) FROM endstate_settle0) THEN 'true' ELSE 'endstate_' || pg_catalog.replace($19::uuid::text, '-', '') END)::pg_catalog.json IS NOT NULL;

-- SettleMany: read the winners' records
WITH endstate_item AS (
	SELECT endstate_n, endstate_key
	FROM unnest($2::text[]) WITH ORDINALITY AS endstate_calls (endstate_key, endstate_n))
SELECT endstate_n, endstate_p0.state, endstate_p0.trigger, endstate_p0.token, endstate_p0.at, endstate_p0.digest
FROM endstate_item
LEFT JOIN LATERAL (
	SELECT state, "trigger", token::text, at, digest
	FROM "endstate_ledger"
	WHERE aggregate = $1::text
	AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_p0 ON true;

-- SettleMany: look again
WITH endstate_item AS (
	SELECT endstate_n, coalesce(endstate_state, ($1::text[])[1]) AS endstate_state, endstate_token, endstate_key
	FROM unnest($1::text[], $2::uuid[], $5::text[]) WITH ORDINALITY AS endstate_calls (endstate_state, endstate_token, endstate_key, endstate_n)),
endstate_changed AS MATERIALIZED (
	SELECT 'endstate_' || pg_catalog.replace($3::uuid::text, '-', '') AS endstate_signal
	FROM endstate_item
	LEFT JOIN LATERAL (
		SELECT state, "trigger", token::text, at, digest
		FROM "endstate_ledger"
		WHERE aggregate = $4::text
		AND "key" = endstate_item.endstate_key LIMIT 1) AS endstate_p0 ON true
	WHERE (current_setting('endstate.moved') = '' OR endstate_n IN (SELECT unnest(nullif(current_setting('endstate.moved'), '')::int8[])))
	AND (endstate_p0.state COLLATE "C" = endstate_item.endstate_state AND endstate_p0.token = endstate_item.endstate_token::text) IS NOT TRUE LIMIT 1)
SELECT (coalesce((SELECT endstate_signal FROM endstate_changed), 'true'))::pg_catalog.json IS NOT NULL;
