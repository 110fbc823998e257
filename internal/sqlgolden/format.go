package sqlgolden

import (
	"regexp"
	"strings"
)

// width is how long a clause in parentheses may be to stay on its line.
const width = 70

// Format breaks a statement into lines before its clauses, and indents what is in parentheses. It is for reading: white space
// outside of quotes is all that it changes.
func Format(sql string) string { return format(strings.Join(strings.Fields(sql), " "), 0) }

var clause = regexp.MustCompile(`^(FROM|WHERE|SET|VALUES|ON CONFLICT|RETURNING|LEFT JOIN|CROSS JOIN|UNION ALL|ORDER BY|FOR NO KEY UPDATE|AND|SELECT|INSERT INTO|UPDATE)\b`)

// within ends where a clause's first word is in the middle of something: IS DISTINCT FROM, FOR NO KEY UPDATE, DO UPDATE SET.
var within = regexp.MustCompile(`(DISTINCT|KEY|DO|DO UPDATE)$`)

func format(sql string, depth int) string {
	var b strings.Builder
	indent := "\n" + strings.Repeat("\t", depth)
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == '\'' || c == '"':
			end := i + 1
			for end < len(sql)-1 && sql[end] != c {
				end++
			}
			b.WriteString(sql[i : end+1])
			i = end + 1
		case c == '(':
			end := closing(sql, i)
			inside := strings.TrimSpace(sql[i+1 : end])
			if len(inside) > width && clause.MatchString(inside) {
				b.WriteString("(" + indent + "\t" + format(inside, depth+1) + ")")
			} else {
				b.WriteString("(" + inside + ")")
			}
			i = end + 1
			if strings.HasPrefix(sql[i:], ", endstate_") {
				b.WriteString("," + indent)
				i += 2
			}
		case c == ' ' && clause.MatchString(sql[i+1:]) && !within.MatchString(b.String()):
			b.WriteString(indent)
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return b.String()
}

// closing is where the parenthesis that opens at i is closed.
func closing(sql string, i int) int {
	depth := 0
	for quote := byte(0); i < len(sql); i++ {
		switch c := sql[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return i - 1
}
