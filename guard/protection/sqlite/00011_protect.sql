-- +goose Up
-- Whoever updates the table: a terminal state is never left and never overwritten.
-- +goose StatementBegin
CREATE TRIGGER {{trigger}} BEFORE UPDATE ON {{table}} FOR EACH ROW
WHEN ({{terminal}}) AND NEW.{{column}} COLLATE BINARY IS NOT OLD.{{column}}
BEGIN
    SELECT RAISE(ABORT, {{message}});
END
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TRIGGER {{trigger}};
-- +goose StatementEnd
