package migrations

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// number writes a version as it stands in file names; width is how many digits the folder's other files have.
func number(format Format, version int64, width int) string {
	if width == 0 && format == Tern {
		width = 3
	}
	return fmt.Sprintf("%0*d", width, version)
}

// in returns a migration's files in a format, by name.
func (m *migration) in(format Format, number string) map[string]string {
	name := number + "_" + m.title
	up, down := strings.Join(m.Up, ""), strings.Join(m.Down, "")
	switch format {
	case GolangMigrate:
		return map[string]string{
			name + ".up.sql":   m.marker + "\n" + up,
			name + ".down.sql": m.marker + "\n" + down,
		}
	case Tern:
		return map[string]string{name + ".sql": m.marker + "\n" + up + "\n---- create above / drop below ----\n\n" + down}
	}
	annotated := func(statements []string) string {
		var b strings.Builder
		for _, s := range statements {
			b.WriteString("-- +goose StatementBegin\n" + s + "-- +goose StatementEnd\n")
		}
		return b.String()
	}
	return map[string]string{name + ".sql": m.marker + "\n-- +goose Up\n" + annotated(m.Up) + "\n-- +goose Down\n" + annotated(m.Down)}
}

// sum is short for a statement.
func sum(statement string) []byte {
	h := sha256.Sum256([]byte(statement))
	return h[:4]
}
