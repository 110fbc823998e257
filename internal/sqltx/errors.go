package sqltx

import (
	"cmp"
	"database/sql"
	"errors"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The SQLSTATEs that the library decides on.
const (
	UniqueViolation     = "23505"
	InvalidText         = "22P02"
	InvalidParameter    = "22023"
	NoTransaction       = "25P01"
	QueryCanceled       = "57014"
	FailedTransaction   = "25P02"
	ReadOnly            = "25006"
	Unsupported         = "0A000" // such as a transaction that writes, on a replica
	UndefinedTable      = "42P01"
	UndefinedColumn     = "42703"
	UndefinedFunction   = "42883" // or operator: such as one that compares a key with a column of another kind
	UndefinedSchema     = "3F000"
	WrongObject         = "42809" // such as a materialized view
	GeneratedAlways     = "428C9"
	NotInState          = "55000" // such as a view that can't be updated
	InsufficientRights  = "42501"
	LockNotAvailable    = "55P03"
	DeadlockDetected    = "40P01"
	serializationFailed = "40001"
)

// State returns the SQLSTATE of the server's error in err's chain, or "". pgx's and lib/pq's errors have a method for it,
// those of bun's pgdriver give it out as a field of the protocol's.
func State(err error) string {
	for e := range chain(err) {
		switch e := e.(type) {
		case interface{ SQLState() string }:
			return e.SQLState()
		case interface{ Field(byte) string }:
			if state := e.Field('C'); state != "" {
				return state
			}
		}
	}
	return ""
}

// severity returns how severe the server called the error: localized where the driver has nothing else.
func severity(err error) string {
	for e := range chain(err) {
		switch e := e.(type) {
		case *pgconn.PgError:
			return cmp.Or(e.SeverityUnlocalized, e.Severity)
		case interface{ Field(byte) string }: // pgdriver
			return cmp.Or(e.Field('V'), e.Field('S'))
		case interface{ Get(byte) string }: // lib/pq
			return cmp.Or(e.Get('V'), e.Get('S'))
		}
	}
	return ""
}

// Conflicted reports whether the database broke the transaction off because of a concurrent one, so that the whole
// transaction may be run again: a serialization failure or deadlock on PostgreSQL, busy or locked on SQLite.
func Conflicted(err error) bool {
	switch State(err) {
	case serializationFailed, DeadlockDetected:
		return true
	case "":
		return Busy(err)
	}
	return false
}

// raised reports whether err names the routine of the server's source that raised it, as no proxy's does.
func raised(err error) bool {
	for e := range chain(err) {
		switch e := e.(type) {
		case *pgconn.PgError:
			return e.Routine != ""
		case interface{ Field(byte) string }: // pgdriver
			return e.Field('R') != ""
		case interface{ Get(byte) string }: // lib/pq
			return e.Get('R') != ""
		}
	}
	return false
}

// Definite reports whether err is the server's own word that the statement (or COMMIT) had no effect. A FATAL error, or one
// that isn't the server's at all, leaves that open: a backend that is terminated while its COMMIT waits for a standby has
// committed. So does one of the connection's class, which a proxy may say of its own one, unless the server raised it: for a
// trigger that uses another database, say.
func Definite(err error) bool {
	if state := State(err); state != "" {
		switch severity(err) {
		case "FATAL", "PANIC":
			return false
		}
		return raised(err) || !strings.HasPrefix(state, "08") && !strings.HasPrefix(state, "57P0")
	}
	_, isSQLite := sqliteCode(err)
	return isSQLite
}

// Incomplete reports whether err may come from a table, column, schema or right that is missing. SQLite has one code for
// that and for bad SQL.
func Incomplete(err error) bool {
	switch State(err) {
	case UndefinedTable, UndefinedColumn, UndefinedSchema, InsufficientRights:
		return true
	}
	code, ok := sqliteCode(err)
	return ok && code&0xff == 1
}

// Unfit reports whether err may come from a table of another kind than one that can be updated. PostgreSQL only: see Incomplete.
func Unfit(err error) bool {
	switch State(err) {
	case WrongObject, GeneratedAlways, NotInState, Unsupported:
		return true
	}
	return false
}

const (
	sqliteBusy   = 5
	sqliteLocked = 6
)

// Busy reports whether another writer of a SQLite database was in the way.
func Busy(err error) bool {
	code, ok := sqliteCode(err)
	return ok && (code&0xff == sqliteBusy || code&0xff == sqliteLocked)
}

// Unique reports whether err is a violated unique constraint.
func Unique(err error) bool {
	if State(err) == UniqueViolation {
		return true
	}
	code, ok := sqliteCode(err)
	// 1555 is SQLITE_CONSTRAINT_PRIMARYKEY, 2067 SQLITE_CONSTRAINT_UNIQUE.
	return ok && (code == 1555 || code == 2067)
}

// sqliteCode finds SQLite's (extended) result code in err's chain without importing a driver: modernc's and ncruces'
// errors have a Code method, mattn's has the fields Code and ExtendedCode.
func sqliteCode(err error) (int, bool) {
	for e := range chain(err) {
		v := reflect.ValueOf(e)
		if !strings.Contains(strings.ToLower(reflect.Indirect(v).Type().PkgPath()), "sqlite") {
			continue
		}
		if c, ok := e.(interface{ Code() int }); ok {
			return c.Code(), true
		}
		if v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if v.Kind() == reflect.Struct {
			for _, name := range []string{"ExtendedCode", "Code"} {
				if f := v.FieldByName(name); f.IsValid() && f.CanInt() && f.Int() != 0 {
					return int(f.Int()), true
				}
			}
		}
		for _, name := range []string{"ExtendedCode", "Code"} {
			m := reflect.ValueOf(e).MethodByName(name)
			if m.IsValid() && m.Type().NumIn() == 0 && m.Type().NumOut() == 1 && m.Type().Out(0).Kind() >= reflect.Int && m.Type().Out(0).Kind() <= reflect.Uintptr {
				out := m.Call(nil)[0]
				if out.CanInt() {
					return int(out.Int()), true
				}
				return int(out.Uint()), true
			}
		}
	}
	return 0, false
}

// chain yields err and all that it wraps.
func chain(err error) func(func(error) bool) {
	return func(yield func(error) bool) {
		var walk func(error) bool
		walk = func(e error) bool {
			if e == nil {
				return true
			}
			if !yield(e) {
				return false
			}
			switch w := e.(type) {
			case interface{ Unwrap() error }:
				return walk(w.Unwrap())
			case interface{ Unwrap() []error }:
				for _, inner := range w.Unwrap() {
					if !walk(inner) {
						return false
					}
				}
			}
			return true
		}
		walk(err)
	}
}

func driverPackage(db *sql.DB) string {
	t := reflect.TypeOf(db.Driver())
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// RolledBack reports whether err says that a COMMIT rolled back, because an error had aborted the transaction before.
func RolledBack(err error) bool { return errors.Is(err, pgx.ErrTxCommitRollback) }
