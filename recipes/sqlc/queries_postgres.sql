-- name: Note :one
SELECT note FROM batches WHERE id = $1 AND deleted_at IS NULL;

-- name: SetNote :execrows
UPDATE batches SET note = $1, version = version + 1 WHERE id = $2;

-- name: Save :execrows
UPDATE batches SET status = $1, note = $2, version = version + 1 WHERE id = $3 AND version = $4;
