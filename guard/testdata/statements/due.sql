-- PostgreSQL: the first page
SELECT CAST(endstate_row."status" AS text), CAST(endstate_row."id" AS text), coalesce(to_char(endstate_row."created_at" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), CAST(endstate_row."created_at" AS text)), coalesce(to_char(endstate_row."day", 'YYYY-MM-DD'), CAST(endstate_row."day" AS text)), encode(endstate_row."code", 'hex')
FROM "orders" AS endstate_row
WHERE ("touched_at" IS NULL OR "touched_at" < clock_timestamp())
AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID')))
AND endstate_row."id" IS NOT NULL
AND endstate_row."created_at" IS NOT NULL
AND endstate_row."day" IS NOT NULL
AND endstate_row."code" IS NOT NULL
ORDER BY endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code" LIMIT 500;

-- PostgreSQL: a later page
SELECT CAST(endstate_row."status" AS text), CAST(endstate_row."id" AS text), coalesce(to_char(endstate_row."created_at" AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), CAST(endstate_row."created_at" AS text)), coalesce(to_char(endstate_row."day", 'YYYY-MM-DD'), CAST(endstate_row."day" AS text)), encode(endstate_row."code", 'hex')
FROM "orders" AS endstate_row
WHERE ("touched_at" IS NULL OR "touched_at" < clock_timestamp())
AND (endstate_row."status" IS NULL OR NOT (endstate_row."status"::text COLLATE "C" IN ('PAID')))
AND endstate_row."id" IS NOT NULL
AND endstate_row."created_at" IS NOT NULL
AND endstate_row."day" IS NOT NULL
AND endstate_row."code" IS NOT NULL
AND (endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code") > ($2::text::character(12), $3::text::timestamp with time zone, $4::text::date, decode($5::text, 'hex'))
ORDER BY endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code" LIMIT 500;

-- SQLite: the first page
SELECT CAST("status" AS text), CASE typeof(endstate_row."id") WHEN 'blob' THEN lower(hex(endstate_row."id")) ELSE CAST(endstate_row."id" AS text) END, typeof(endstate_row."id"), CASE typeof(endstate_row."created_at") WHEN 'blob' THEN lower(hex(endstate_row."created_at")) ELSE CAST(endstate_row."created_at" AS text) END, typeof(endstate_row."created_at"), CASE typeof(endstate_row."day") WHEN 'blob' THEN lower(hex(endstate_row."day")) ELSE CAST(endstate_row."day" AS text) END, typeof(endstate_row."day"), CASE typeof(endstate_row."code") WHEN 'blob' THEN lower(hex(endstate_row."code")) ELSE CAST(endstate_row."code" AS text) END, typeof(endstate_row."code")
FROM "orders" AS endstate_row
WHERE (due_at < datetime('now'))
AND ("status" IS NULL OR NOT ("status" = 'PAID' COLLATE BINARY))
AND endstate_row."id" IS NOT NULL
AND endstate_row."created_at" IS NOT NULL
AND endstate_row."day" IS NOT NULL
AND endstate_row."code" IS NOT NULL
ORDER BY endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code" LIMIT 500;

-- SQLite: a later page
SELECT CAST("status" AS text), CASE typeof(endstate_row."id") WHEN 'blob' THEN lower(hex(endstate_row."id")) ELSE CAST(endstate_row."id" AS text) END, typeof(endstate_row."id"), CASE typeof(endstate_row."created_at") WHEN 'blob' THEN lower(hex(endstate_row."created_at")) ELSE CAST(endstate_row."created_at" AS text) END, typeof(endstate_row."created_at"), CASE typeof(endstate_row."day") WHEN 'blob' THEN lower(hex(endstate_row."day")) ELSE CAST(endstate_row."day" AS text) END, typeof(endstate_row."day"), CASE typeof(endstate_row."code") WHEN 'blob' THEN lower(hex(endstate_row."code")) ELSE CAST(endstate_row."code" AS text) END, typeof(endstate_row."code")
FROM "orders" AS endstate_row
WHERE (due_at < datetime('now'))
AND ("status" IS NULL OR NOT ("status" = 'PAID' COLLATE BINARY))
AND endstate_row."id" IS NOT NULL
AND endstate_row."created_at" IS NOT NULL
AND endstate_row."day" IS NOT NULL
AND endstate_row."code" IS NOT NULL
AND (endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code") > (?2, ?3, ?4, ?5)
ORDER BY endstate_row."id", endstate_row."created_at", endstate_row."day", endstate_row."code" LIMIT 500;
