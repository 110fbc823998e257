-- +goose Up
-- Whoever updates the table: a terminal state is never left and never overwritten. Triggers fire in the order of their names;
-- this one's makes it the last, so that it sees what the table's other triggers have made of the row.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION {{function}}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $protect$
BEGIN
    RAISE EXCEPTION USING
        ERRCODE = 'TS001',
        MESSAGE = format('endstate: column %I of table %I.%I holds a terminal state, which is never left or overwritten',
            TG_ARGV[0], TG_TABLE_SCHEMA, TG_TABLE_NAME),
        HINT = format('Finalize through package finalize. To fix a row by hand, disable trigger %I in the transaction that does.', TG_NAME),
        SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME, COLUMN = TG_ARGV[0];
END
$protect$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE TRIGGER {{trigger}} BEFORE UPDATE ON {{table}} FOR EACH ROW
    WHEN (NOT {{open}} AND NEW.{{column}}::text COLLATE "C" IS DISTINCT FROM OLD.{{column}}::text COLLATE "C")
    EXECUTE FUNCTION {{function}}({{column text}});
-- +goose StatementEnd
-- By this a later start knows that there is nothing to do.
-- +goose StatementBegin
COMMENT ON TRIGGER {{trigger}} ON {{table}} IS '{{comment}}';
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
DROP TRIGGER {{trigger}} ON {{table}};
-- +goose StatementEnd
-- +goose StatementBegin
DROP FUNCTION {{function}}();
-- +goose StatementEnd
