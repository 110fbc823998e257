package sqltx

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNumbered(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]string{
		"SELECT 1":                "SELECT 1",
		"SELECT $2, $1, $12":      "SELECT ?2, ?1, ?12",
		"x=$1":                    "x=?1",
		"SELECT '$1', $1":         "SELECT '$1', ?1",
		`SELECT "$1""$2", '''$1'`: `SELECT "$1""$2", '''$1'`,
		"SELECT [$1], `$2`, $3":   "SELECT [$1], `$2`, ?3",
		"-- $1\n$1 /* $2 */ $2":   "-- $1\n?1 /* $2 */ ?2",
		"SELECT a$1, $a, $0, $":   "SELECT a$1, $a, $0, $",
		"'$1":                     "'$1",
	} {
		require.Equal(t, want, numbered(query))
	}
}
