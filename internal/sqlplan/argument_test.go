package sqlplan

import (
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
)

// A connection without prepared statements gets arrays as text.
func TestFieldsAreAlsoText(t *testing.T) {
	t.Parallel()
	calls := []*Call{
		{Key: `say "1"`, Token: [16]byte{1}, Digest: []byte{0xab}, Parts: []any{int64(1), []byte{0xcd}}},
		{Key: `a\b`, Token: [16]byte{2}, Digest: []byte{}, Parts: []any{int64(-2), []byte{}}},
	}
	for want, of := range map[string]Arg{
		`{"say \"1\"","a\\b"}`: func(c *Call) any { return (*Text)(&c.Key) },
		`{"01000000-0000-0000-0000-000000000000","02000000-0000-0000-0000-000000000000"}`: func(c *Call) any { return (*UUID)(&c.Token) },
		`{"\\xab","\\x"}`: func(c *Call) any { return (*Bytes)(&c.Digest) },
		`{"1","-2"}`:      func(c *Call) any { return c.Parts[0] },
		`{"\\xcd","\\x"}`: func(c *Call) any { return c.Parts[1] },
	} {
		text, err := (&field{calls, of}).TextValue()
		require.NoError(t, err)
		require.Equal(t, pgtype.Text{String: want, Valid: true}, text)
	}
}
