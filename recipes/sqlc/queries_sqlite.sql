-- name: Note :one
SELECT note FROM batches WHERE id = ? AND deleted_at IS NULL;

-- name: SetNote :execrows
UPDATE batches SET note = ?, version = version + 1 WHERE id = ?;

-- name: Save :execrows
UPDATE batches SET status = ?, note = ?, version = version + 1 WHERE id = ? AND version = ?;
