// Package migrate applies a package's embedded migrations, and says what a database lacks of them. The files are in goose's
// format and valid SQL for the default table names; other names are put in as the files are read, so that one file serves
// every tool. What a database lacks is found by what is there: tables, columns, types and indexes, as the files make them,
// whoever ran these.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/endstate-go/endstate"
	"github.com/endstate-go/endstate/internal/sqltx"
)

// lockKey is the advisory lock under which migrations run: ten processes that start at once take turns.
const lockKey = 0x656e64737461_01

// Run applies those migrations in fsys of which the database lacks something, in tx. target is the first of their tables. It
// creates the schema if that is named and absent. Where nothing is lacking it writes nothing, and needs no right to. The
// caller commits; on SQLite one that finds the database busy must run the transaction again.
func Run(ctx context.Context, tx endstate.Tx, schema, target string, fsys fs.FS) error {
	set, err := load(schema, target, fsys)
	if err != nil {
		return err
	}
	todo, err := set.pending(ctx, tx)
	if err != nil || len(todo) == 0 {
		return err
	}
	if sqltx.Of(tx) == sqltx.Postgres {
		if err := prepare(ctx, tx, schema); err != nil {
			return err
		}
		if todo, err = set.pending(ctx, tx); err != nil { // somebody may have done it meanwhile
			return err
		}
	}
	for _, f := range todo {
		for _, statement := range f.Up {
			if _, err := tx.Exec(ctx, statement); sqltx.State(err) == sqltx.UndefinedSchema && schema == "" {
				return fmt.Errorf("migration %s: %w; the search_path names no schema that is there: set it, or name the schema in the configuration", f.Name, err)
			} else if err != nil {
				return fmt.Errorf("migration %s: %w", f.Name, err)
			}
		}
	}
	return set.lacks(ctx, tx)
}

// set is the migrations of one part of the library, and what they make.
type set struct {
	schema, target string
	files          []File
	makes          []structure // by file
	whole          structure   // by all
}

func load(schema, target string, fsys fs.FS) (*set, error) {
	files, err := Load(fsys)
	if err != nil {
		return nil, err
	}
	s := &set{schema: schema, target: target, files: files}
	for _, f := range files {
		tables, functions := len(s.whole.tables), len(s.whole.functions)
		before := s.whole.copies()
		for _, statement := range f.Up {
			if err := s.whole.add(statement); err != nil {
				return nil, fmt.Errorf("migration %s: %w", f.Name, err)
			}
		}
		makes := structure{functions: s.whole.functions[functions:]}
		for _, t := range s.whole.tables[tables:] {
			now := *t // later files may add to it
			makes.tables = append(makes.tables, &now)
		}
		for i, t := range before {
			if added := s.whole.tables[i].without(t); added != nil {
				makes.tables = append(makes.tables, added)
			}
		}
		s.makes = append(s.makes, makes)
	}
	return s, nil
}

// pending are the files of which the database lacks something, and those that are newer than what it notes.
func (s *set) pending(ctx context.Context, q endstate.Querier) ([]File, error) {
	have, err := s.version(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := s.outdated(have); err != nil {
		return nil, err // what it lacks may have been taken away
	}
	var files []File
	for i, f := range s.files {
		lacks, err := s.makes[i].lacks(ctx, q)
		if err != nil {
			return nil, err
		}
		if lacks != nil || have.noted && f.Version > have.version {
			files = append(files, f)
		}
	}
	return files, nil
}

// lacks says what the database lacks after the files have run: a table of theirs was there and is another.
func (s *set) lacks(ctx context.Context, q endstate.Querier) error {
	lacks, err := s.whole.lacks(ctx, q)
	if err != nil || lacks == nil {
		return err
	}
	return fmt.Errorf("the migrations have run, and what was there before is not what they make: %w", errors.Join(lacks...))
}

// Lock waits until no other transaction migrates; PostgreSQL only.
func Lock(ctx context.Context, tx endstate.Tx) error {
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock("+strconv.Itoa(lockKey)+")")
	return err
}

func prepare(ctx context.Context, tx endstate.Tx, schema string) error {
	if err := Lock(ctx, tx); err != nil {
		return err
	}
	if schema == "" {
		return nil
	}
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1::text)", schema).Scan(&exists); err != nil {
		return err
	}
	if exists {
		return nil
	}
	if _, err := tx.Exec(ctx, "CREATE SCHEMA "+sqltx.Quote("", schema)); err != nil {
		return fmt.Errorf("create schema %s: %w", schema, err)
	}
	return nil
}
