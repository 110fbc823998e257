package outbox

import (
	"iter"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// Inserts are the statements that finalize sends.
func Inserts(w Writer, d sqltx.Dialect, prepared []Event) iter.Seq2[string, []any] {
	return inserts{w}.Inserts(d, prepared)
}
