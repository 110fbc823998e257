package inbox

import (
	"testing"

	"github.com/endstate-go/endstate/internal/sqlgolden"
	"github.com/endstate-go/endstate/internal/sqltx"
	"github.com/endstate-go/endstate/outbox"
)

// The statements of an inbox on a table, for each database.
func TestTableStatements(t *testing.T) {
	for _, dialect := range []sqltx.Dialect{sqltx.Postgres, sqltx.SQLite} {
		var f sqlgolden.File
		s := newStatements(&TableConfig{Table: DefaultTable, Key: func(outbox.Event) (string, error) { return "", nil }}, dialect)
		f.Add("record a delivery as handled, unless another one has the key's lock or its row", s.insert)
		f.Add("try to lock a key", s.lock)
		f.Add("look up the key and the event", s.lookup)
		f.Add("keep the result", s.keep)
		f.Add("record a delivery whose key has a row that says otherwise", s.handle)
		if s.must != "" {
			f.Add("the same, in one trip with COMMIT", s.must)
		}
		f.Add("count a failed attempt", s.fail)
		f.Add("dead letters", s.list, s.one, s.drop)
		f.Add("clean up", s.clean)
		f.Require(t, string(dialect))
	}
}
