// Package sqlx is a recipe: sqlx and endstate in one transaction.
package sqlx

import (
	"context"
	"database/sql"

	"github.com/jmoiron/sqlx"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
)

// ORM is sqlx's handle for a transaction, on db. With it, finalize.NewORM gives a *finalize.Finalizer[*sqlx.Tx].
//
// The handle that Do gives to a callback has no driver's name, which sqlx keeps to itself. Get, Select and the like work, also
// with a query from sqlx.Named and db.Rebind; NamedExec and Rebind of the handle itself would leave question marks in it.
func ORM(db *sqlx.DB) finalize.ORM[*sqlx.Tx] {
	return finalize.ORM[*sqlx.Tx]{
		With: func(_ context.Context, tx *sql.Tx) (*sqlx.Tx, error) { return &sqlx.Tx{Tx: tx, Mapper: db.Mapper}, nil },
		Of:   func(tx *sqlx.Tx) (endstate.SQLTx, error) { return tx, nil },
	}
}
