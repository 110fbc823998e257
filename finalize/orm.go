package finalize

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/internal/isnil"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// NewSQL returns a Finalizer on database/sql, for PostgreSQL (through any driver) and SQLite.
func NewSQL(db *sql.DB, cfg *Config) (*Finalizer[*sql.Tx], error) {
	return NewORM(db, ORM[*sql.Tx]{
		With: func(_ context.Context, tx *sql.Tx) (*sql.Tx, error) { return tx, nil },
		Of:   func(tx *sql.Tx) (endstate.SQLTx, error) { return tx, nil },
	}, cfg)
}

// ORM says how a library on top of database/sql and endstate meet in one transaction. Tx is that library's handle for one,
// such as *gorm.DB or *sqlx.Tx. Both functions are required.
type ORM[Tx any] struct {
	// With returns the handle whose statements run in tx, which Do gives to its callback. The handle must not end tx.
	With func(ctx context.Context, tx *sql.Tx) (Tx, error)
	// Of returns the transaction that a handle is in, for DoTx. It must hand statements and their arguments on as they are.
	Of func(tx Tx) (endstate.SQLTx, error)
}

// NewORM is NewSQL for a service that works with an ORM: callbacks get its handle for a transaction, and DoTx takes one. The
// *sql.DB is the one that the ORM is on. The folder recipes has the ORM of gorm, of sqlx and of ent, with tests.
func NewORM[Tx any](db *sql.DB, orm ORM[Tx], cfg *Config) (*Finalizer[Tx], error) {
	c, err := cfg.withDefaults()
	switch {
	case err != nil:
		return nil, err
	case db == nil:
		return nil, fmt.Errorf("%w: db is nil", ErrConfig)
	case orm.With == nil:
		return nil, fmt.Errorf("%w: ORM.With is nil", ErrConfig)
	case orm.Of == nil:
		return nil, fmt.Errorf("%w: ORM.Of is nil", ErrConfig)
	}
	dialect, err := sqltx.Choose(db, c.Dialect)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	f := newCore(c, db)
	f.path = c.watch(dialect)
	d := &sqlDB{core: f, db: db, dialect: dialect, watcher: watcher{every: watchEvery}}
	if dialect == sqltx.SQLite {
		d.writes = make(chan struct{}, 1)
	}
	return &Finalizer[Tx]{f, ormDB[Tx]{d, orm}}, nil
}

// ormDB is a sqlDB whose transactions are an ORM's handles.
type ormDB[Tx any] struct {
	*sqlDB
	orm ORM[Tx]
}

// ormSession is a sqlSession with the handle of its transaction.
type ormSession[Tx any] struct {
	*sqlSession
	handle Tx
}

func (s ormSession[Tx]) tx() Tx { return s.handle }

func (d ormDB[Tx]) claim(ctx context.Context, a *attempt) (session[Tx], guard.Record, error) {
	s, rec, err := d.sqlDB.claim(ctx, a)
	if s == nil {
		return nil, rec, err
	}
	made := ormSession[Tx]{sqlSession: s}
	rec, err = claimed(ctx, s, func(ctx context.Context, _ *attempt) (guard.Record, error) {
		var err error
		if made.handle, err = d.orm.With(ctx, s.own); err != nil {
			err = fmt.Errorf("ORM.With: %w", err)
		}
		return rec, err
	}, a)
	if err != nil {
		return nil, rec, err
	}
	return made, rec, nil
}

func (d ormDB[Tx]) claimIn(ctx context.Context, tx Tx, a *attempt) (session[Tx], guard.Record, error) {
	if isnil.Any(tx) {
		return nil, guard.Record{}, errors.New("tx is nil")
	}
	of, err := d.orm.Of(tx)
	if err != nil {
		return nil, guard.Record{}, fmt.Errorf("ORM.Of: %w", err)
	}
	s, rec, err := d.sqlDB.claimIn(ctx, of, a)
	if s == nil {
		return nil, rec, err
	}
	return ormSession[Tx]{s, tx}, rec, err
}
