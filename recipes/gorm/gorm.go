// Package gorm is a recipe: gorm and endstate in one transaction.
package gorm

import (
	"context"
	"database/sql"
	"fmt"

	"gorm.io/gorm"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/finalize"
)

// ORM is gorm's handle for a transaction, on db. With it, finalize.NewORM gives a *finalize.Finalizer[*gorm.DB].
func ORM(db *gorm.DB) finalize.ORM[*gorm.DB] {
	return finalize.ORM[*gorm.DB]{
		With: func(ctx context.Context, tx *sql.Tx) (*gorm.DB, error) {
			session := db.Session(&gorm.Session{NewDB: true, Context: ctx})
			session.Statement.ConnPool = tx
			return session, nil
		},
		Of: Tx,
	}
}

// Tx returns the transaction that a *gorm.DB is in, such as for outbox.Put(ctx, endstate.PostgresTx(tx), …). It isn't always a
// *sql.Tx: with PrepareStmt it is one of gorm's own.
func Tx(db *gorm.DB) (endstate.SQLTx, error) {
	tx, ok := db.Statement.ConnPool.(endstate.SQLTx)
	if !ok {
		return nil, fmt.Errorf("this *gorm.DB is in no transaction: it is on a %T", db.Statement.ConnPool)
	}
	return tx, nil
}
