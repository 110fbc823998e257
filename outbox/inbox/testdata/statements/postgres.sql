-- record a delivery as handled, unless another one has the key's lock or its row
INSERT INTO "endstate_inbox" (consumer, "key", event_id, digest, state, attempts, at)
SELECT $1::text, $2::text, $3::uuid, $4::bytea, 'handled', 1, clock_timestamp()
WHERE pg_try_advisory_xact_lock($5::int8 # '"endstate_inbox"'::regclass::oid::int8)
ON CONFLICT DO NOTHING;

-- try to lock a key
SELECT pg_try_advisory_xact_lock($1::int8 # '"endstate_inbox"'::regclass::oid::int8);

-- look up the key and the event
SELECT "key", coalesce(CAST(event_id AS text), "key"), digest, state, result
FROM "endstate_inbox"
WHERE consumer = $1::text
AND "key" = $2::text
UNION ALL
SELECT "key", coalesce(CAST(event_id AS text), "key"), digest, state, result
FROM "endstate_inbox"
WHERE consumer = $1::text
AND event_id = $3::uuid
AND "key" <> $2::text;

-- keep the result
UPDATE "endstate_inbox"
SET result = $3::bytea
WHERE consumer = $1::text
AND "key" = $2::text;

-- record a delivery whose key has a row that says otherwise
INSERT INTO "endstate_inbox" AS endstate_row (consumer, "key", event_id, digest, result, state, attempts, at)
VALUES ($1::text, $2::text, $3::uuid, $4::bytea, $5::bytea, 'handled', 1, clock_timestamp())
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, result = excluded.result, state = 'handled', attempts = endstate_row.attempts + 1, at = excluded.at, event = NULL, error = NULL
WHERE endstate_row.state <> 'handled';

-- the same, in one trip with COMMIT
WITH endstate_done AS (
	INSERT INTO "endstate_inbox" AS endstate_row (consumer, "key", event_id, digest, result, state, attempts, at)
	VALUES ($1::text, $2::text, $3::uuid, $4::bytea, $5::bytea, 'handled', 1, clock_timestamp())
	ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, result = excluded.result, state = 'handled', attempts = endstate_row.attempts + 1, at = excluded.at, event = NULL, error = NULL
	WHERE endstate_row.state <> 'handled'
	RETURNING 1)
SELECT (coalesce((SELECT 'true' FROM endstate_done), $6::text))::pg_catalog.json IS NOT NULL;

-- count a failed attempt
INSERT INTO "endstate_inbox" AS endstate_row (consumer, "key", event_id, digest, event, error, state, attempts, at)
VALUES ($1::text, $2::text, $3::uuid, $4::bytea, $5::bytea, $6::text, CASE WHEN $7::int4 <= 1 THEN 'dead' ELSE 'failed' END, 1, clock_timestamp())
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, event = excluded.event, error = excluded.error, state = CASE WHEN endstate_row.state = 'dead' OR endstate_row.attempts + 1 >= $7::int4 THEN 'dead' ELSE 'failed' END, attempts = endstate_row.attempts + 1, at = excluded.at
WHERE endstate_row.state <> 'handled'
RETURNING state, attempts;

-- dead letters
SELECT "key", event, coalesce(error, ''), attempts, at
FROM "endstate_inbox"
WHERE consumer = $1::text
AND state = 'dead'
ORDER BY at, "key" LIMIT $2::int4;
SELECT "key", event, coalesce(error, ''), attempts, at
FROM "endstate_inbox"
WHERE consumer = $1::text
AND state = 'dead'
AND "key" = $2::text;
DELETE
FROM "endstate_inbox"
WHERE consumer = $1::text
AND state = 'dead'
AND "key" = $2::text;

-- clean up
DELETE
FROM "endstate_inbox"
WHERE ctid = ANY (ARRAY(SELECT ctid FROM "endstate_inbox" WHERE consumer = $1::text AND state <> 'dead' AND at < clock_timestamp() - make_interval(secs => $2::float8) ORDER BY at LIMIT $3::int4 FOR UPDATE SKIP LOCKED));
