// Package ent is a recipe: ent and endstate in one transaction. ent's code is in gen, generated with the feature sql/execquery,
// which lets the statements of others run in its transactions.
package ent

import (
	"context"
	"database/sql"
	"errors"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/recipes/ent/gen"
)

// ORM is ent's handle for a transaction; name is dialect.Postgres or dialect.SQLite. With it, finalize.NewORM gives a
// *finalize.Finalizer[*gen.Tx]. Hooks and interceptors are a client's own: those of the service's client aren't on the handle
// that Do gives to a callback, but for those in the schema.
func ORM(name string) finalize.ORM[*gen.Tx] {
	return finalize.ORM[*gen.Tx]{
		With: func(ctx context.Context, tx *sql.Tx) (*gen.Tx, error) {
			return gen.NewClient(gen.Driver(within{entsql.NewDriver(name, entsql.Conn{ExecQuerier: tx})})).Tx(ctx)
		},
		Of: func(tx *gen.Tx) (endstate.SQLTx, error) { return tx, nil },
	}
}

// within is a driver in a transaction that others end.
type within struct{ *entsql.Driver }

func (d within) Tx(context.Context) (dialect.Tx, error) { return transaction(d), nil }

type transaction struct{ *entsql.Driver }

func (transaction) Commit() error   { return errors.New("endstate ends this transaction") }
func (transaction) Rollback() error { return errors.New("endstate ends this transaction") }
