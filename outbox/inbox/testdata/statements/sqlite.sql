-- record a delivery as handled, unless another one has the key's lock or its row
INSERT INTO "endstate_inbox" (consumer, "key", event_id, digest, state, attempts, at)
SELECT ?1, ?2, ?3, ?4, 'handled', 1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE true
ON CONFLICT DO NOTHING;

-- try to lock a key
UPDATE "endstate_inbox"
SET attempts = attempts
WHERE 0;

-- look up the key and the event
SELECT "key", coalesce(CAST(event_id AS text), "key"), digest, state, result
FROM "endstate_inbox"
WHERE consumer = ?1
AND "key" = ?2
UNION ALL
SELECT "key", coalesce(CAST(event_id AS text), "key"), digest, state, result
FROM "endstate_inbox"
WHERE consumer = ?1
AND event_id = ?3
AND "key" <> ?2;

-- keep the result
UPDATE "endstate_inbox"
SET result = ?3
WHERE consumer = ?1
AND "key" = ?2;

-- record a delivery whose key has a row that says otherwise
INSERT INTO "endstate_inbox" AS endstate_row (consumer, "key", event_id, digest, result, state, attempts, at)
VALUES (?1, ?2, ?3, ?4, ?5, 'handled', 1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, result = excluded.result, state = 'handled', attempts = endstate_row.attempts + 1, at = excluded.at, event = NULL, error = NULL
WHERE endstate_row.state <> 'handled';

-- count a failed attempt
INSERT INTO "endstate_inbox" AS endstate_row (consumer, "key", event_id, digest, event, error, state, attempts, at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, CASE WHEN ?7 <= 1 THEN 'dead' ELSE 'failed' END, 1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
ON CONFLICT (consumer, "key") DO UPDATE SET event_id = excluded.event_id, digest = excluded.digest, event = excluded.event, error = excluded.error, state = CASE WHEN endstate_row.state = 'dead' OR endstate_row.attempts + 1 >= ?7 THEN 'dead' ELSE 'failed' END, attempts = endstate_row.attempts + 1, at = excluded.at
WHERE endstate_row.state <> 'handled'
RETURNING state, attempts;

-- dead letters
SELECT "key", event, coalesce(error, ''), attempts, at
FROM "endstate_inbox"
WHERE consumer = ?1
AND state = 'dead'
ORDER BY at, "key" LIMIT ?2;
SELECT "key", event, coalesce(error, ''), attempts, at
FROM "endstate_inbox"
WHERE consumer = ?1
AND state = 'dead'
AND "key" = ?2;
DELETE
FROM "endstate_inbox"
WHERE consumer = ?1
AND state = 'dead'
AND "key" = ?2;

-- clean up
DELETE
FROM "endstate_inbox"
WHERE rowid IN (
	SELECT rowid
	FROM "endstate_inbox"
	WHERE consumer = ?1
	AND state <> 'dead'
	AND at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || ?2 || ' seconds')
	ORDER BY at LIMIT ?3);
