package adopt

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox/audit"
)

// Adoption adopts one table.
type Adoption struct {
	pool *pgxpool.Pool
	cfg  Config
}

// New returns an Adoption. It sends nothing.
func New(pool *pgxpool.Pool, cfg Config) (*Adoption, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if pool == nil {
		return nil, fmt.Errorf("%w: pool is nil", ErrConfig)
	}
	return &Adoption{pool, cfg}, nil
}

// Plan is what Apply is going to do.
type Plan struct {
	Table      string   `json:"table"`
	Duplicates int64    `json:"duplicates"` // rows to remove
	Aggregates int64    `json:"duplicated_aggregates"`
	Published  int64    `json:"published_duplicates"` // those of the rows that consumers have seen
	Backup     string   `json:"backup_table"`
	Columns    []string `json:"columns"`         // to add
	Index      string   `json:"index"`           // the statement; empty: there is one already
	Step       string   `json:"step,omitempty"`  // of an adoption that was begun before, and "done" of one that is finished
	Removed    int64    `json:"already_removed"` // rows in the backup table
	Steps      []string `json:"steps"`           // the statements of the steps, abridged
	// Condition is how published events are told from others; empty: none is taken for published.
	Condition string   `json:"published_if"`
	Choices   []Choice `json:"choices"` // of Config.Show aggregates, those with the most events first
}

// Plan says what Apply would do. It only reads.
func (a *Adoption) Plan(ctx context.Context) (*Plan, error) {
	var plan *Plan
	err := pgx.BeginTxFunc(ctx, a.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL TimeZone = 'UTC'"); err != nil {
			return err
		}
		t, err := look(ctx, tx, a.cfg)
		if err != nil {
			return err
		}
		if err := t.checkRemovable(ctx, tx); err != nil {
			return err
		}
		if err := t.judge(ctx, tx); err != nil {
			return err
		}
		if plan, err = t.plan(ctx, tx); err != nil || plan.Index == "" {
			return err
		}
		plan.Choices, err = t.choices(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("adopt: plan: %w", err)
	}
	if plan.Index == "" {
		return plan, nil // the index there is lets no duplicate in
	}
	report, err := audit.Run(ctx, a.pool, a.cfg.audit())
	if err != nil {
		return nil, err
	}
	plan.Duplicates, plan.Aggregates, plan.Published = report.Duplicates, report.Duplicated, report.Published
	return plan, nil
}

func (t *target) plan(ctx context.Context, q endstate.Querier) (*Plan, error) {
	p := &Plan{Table: t.table(), Backup: t.backup(), Columns: []string{}, Steps: []string{}, Condition: t.publishedIf(), Choices: []Choice{}}
	unique, err := t.isUnique(ctx, q)
	if err != nil {
		return nil, err
	}
	if logged, err := t.exists(ctx, q, t.log()); err != nil {
		return nil, err
	} else if logged {
		err := q.QueryRow(ctx, "SELECT step FROM "+t.log()+" WHERE target = $1::text", t.table()).Scan(&p.Step)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return nil, err
		}
	}
	if backed, err := t.exists(ctx, q, t.backup()); err != nil {
		return nil, err
	} else if backed {
		if err := q.QueryRow(ctx, "SELECT count(*) FROM "+t.backup()).Scan(&p.Removed); err != nil {
			return nil, err
		}
	}
	for _, column := range t.missing() {
		p.Columns = append(p.Columns, sqltx.Quote("", column.Name)+" "+column.Type)
	}
	if len(p.Columns) > 0 {
		p.Steps = append(p.Steps, t.addColumns()+";")
	}
	if !unique {
		p.Index = t.createUnique()
		p.Steps = append(p.Steps,
			fmt.Sprintf("CREATE TABLE %s (LIKE %s);", t.backup(), t.table()),
			t.createIndex("", t.helper())+"; -- to find duplicates by",
			fmt.Sprintf("CREATE TRIGGER %s BEFORE INSERT ON %s …; -- refuses further duplicates (23505)", sqltx.Quote("", t.barrier()), t.table()),
			fmt.Sprintf("DELETE FROM %s …; INSERT INTO %s …; -- in batches of %d aggregates", t.table(), t.backup(), t.cfg.Batch),
			p.Index+";",
			fmt.Sprintf("DROP TRIGGER %s ON %s; DROP INDEX CONCURRENTLY %s;", sqltx.Quote("", t.barrier()), t.table(), sqltx.Quote(t.cfg.Schema, t.helper())),
		)
	}
	return p, nil
}
