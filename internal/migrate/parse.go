package migrate

import (
	"fmt"
	"slices"
	"strings"

	"github.com/endstate-go/endstate/internal/sqltx"
)

// structure is what files make: read from their own SQL, so that what Check looks for can't part from what they make.
type structure struct {
	tables    []*table
	functions []string // quoted and qualified
}

type table struct {
	schema, name string
	columns      []column
	indexes      []index
}

type column struct {
	name, kind string // kind is the type as written
	notNull    bool
}

type index struct {
	name    string // empty: a constraint's
	columns []string
	unique  bool
	partial bool
}

func (t *table) quoted() string { return sqltx.Quote(t.schema, t.name) }

// find returns a table, or nil.
func (s *structure) find(name string) *table {
	if i := slices.IndexFunc(s.tables, func(t *table) bool { return t.name == name }); i >= 0 {
		return s.tables[i]
	}
	return nil
}

// add reads one statement. It knows what our files use, and says so where it meets something else: a statement that alters or
// drops what an earlier one made must be understood, or Check would go on looking for that.
func (s *structure) add(statement string) error {
	p := &parser{tokens: tokens(statement)}
	switch {
	case p.words("CREATE"):
		p.words("OR", "REPLACE")
		p.words("UNLOGGED")
		unique := p.words("UNIQUE")
		switch {
		case p.words("TABLE"):
			return s.createTable(p)
		case p.words("INDEX"):
			return s.createIndex(p, unique)
		case p.words("FUNCTION"):
			schema, name := p.name()
			s.functions = append(s.functions, sqltx.Quote(schema, name))
			return nil
		}
	case p.words("ALTER", "TABLE"):
		_, name := p.name()
		t := s.find(name)
		if t != nil && p.words("ADD", "COLUMN") {
			p.words("IF", "NOT", "EXISTS")
			t.addColumn(p.rest())
			return nil
		}
	case p.words("INSERT"), p.words("DELETE"), p.words("UPDATE"), p.words("COMMENT"):
		return nil
	}
	return fmt.Errorf("a statement that Check can't read: %.40q", statement)
}

func (s *structure) createTable(p *parser) error {
	p.words("IF", "NOT", "EXISTS")
	t := &table{}
	t.schema, t.name = p.name()
	if s.find(t.name) != nil || t.name == Table {
		return nil
	}
	s.tables = append(s.tables, t)
	for _, item := range p.list() {
		item := &parser{tokens: item}
		switch {
		case item.words("PRIMARY", "KEY"), item.words("UNIQUE"):
			t.indexes = append(t.indexes, index{columns: item.columns(), unique: true})
		case item.words("CHECK"), item.words("CONSTRAINT"), item.words("FOREIGN"):
		default:
			t.addColumn(item.rest())
		}
	}
	return nil
}

// addColumn reads a column's definition.
func (t *table) addColumn(definition []string) {
	c := column{name: unquote(definition[0])}
	i := 1
	for i < len(definition) && !slices.Contains([]string{"NOT", "NULL", "DEFAULT", "PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "GENERATED", "COLLATE", "CONSTRAINT"}, strings.ToUpper(definition[i])) {
		i++
	}
	c.kind = strings.Join(definition[1:i], " ")
	rest := " " + strings.ToUpper(strings.Join(definition[i:], " ")) + " "
	c.notNull = strings.Contains(rest, " NOT NULL ")
	if strings.Contains(rest, " PRIMARY KEY ") || strings.Contains(rest, " UNIQUE ") {
		t.indexes = append(t.indexes, index{columns: []string{c.name}, unique: true})
	}
	t.columns = append(t.columns, c)
}

func (s *structure) createIndex(p *parser, unique bool) error {
	p.words("IF", "NOT", "EXISTS")
	_, own := p.name()
	if !p.words("ON") {
		return fmt.Errorf("an index without ON")
	}
	_, name := p.name()
	t := s.find(name)
	if t == nil {
		return fmt.Errorf("an index on %q, which no earlier statement makes", name)
	}
	x := index{name: own, columns: p.columns(), unique: unique}
	x.partial = p.words("WHERE")
	t.indexes = append(t.indexes, x)
	return nil
}

// parser goes through a statement's tokens.
type parser struct{ tokens []string }

// words takes these keywords, if they come next.
func (p *parser) words(words ...string) bool {
	for i, word := range words {
		if i >= len(p.tokens) || !strings.EqualFold(p.tokens[i], word) {
			return false
		}
	}
	p.tokens = p.tokens[len(words):]
	return true
}

// rest takes what is left.
func (p *parser) rest() []string {
	rest := p.tokens
	p.tokens = nil
	return rest
}

func (p *parser) next() string {
	if len(p.tokens) == 0 {
		return ""
	}
	token := p.tokens[0]
	p.tokens = p.tokens[1:]
	return token
}

// name takes a name with or without a schema.
func (p *parser) name() (schema, name string) {
	name = unquote(p.next())
	if p.words(".") {
		schema, name = name, unquote(p.next())
	}
	return schema, name
}

// list takes what stands in parentheses, parted at its commas.
func (p *parser) list() (items [][]string) {
	if p.next() != "(" {
		return nil
	}
	var item []string
	for depth := 1; len(p.tokens) > 0; {
		token := p.next()
		switch token {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 || depth == 1 && token == "," {
			items, item = append(items, item), nil
			if depth == 0 {
				break
			}
			continue
		}
		item = append(item, token)
	}
	return items
}

// columns takes a list of columns; an expression is in parentheses, and its name the first of them.
func (p *parser) columns() (names []string) {
	for _, item := range p.list() {
		names = append(names, unquote(item[0]))
	}
	return names
}

func unquote(token string) string {
	if strings.HasPrefix(token, `"`) {
		return strings.ReplaceAll(token[1:len(token)-1], `""`, `"`)
	}
	return token
}

// tokens parts SQL into words, quoted names, strings and signs; comments are left out.
func tokens(text string) (list []string) {
	isWord := func(c byte) bool {
		return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
	}
	for i := 0; i < len(text); {
		start := i
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ';':
			i++
			continue
		case strings.HasPrefix(text[i:], "--"):
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return list
			}
			i += end
			continue
		case strings.HasPrefix(text[i:], "$$"):
			i = ends(text, i+2, "$$")
		case c == '"' || c == '\'':
			for i = ends(text, i+1, string(c)); i < len(text) && text[i] == c; {
				i = ends(text, i+1, string(c))
			}
		case isWord(c):
			for i < len(text) && isWord(text[i]) {
				i++
			}
		default:
			i++
		}
		list = append(list, text[start:i])
	}
	return list
}

// ends returns where the first mark after i ends.
func ends(text string, i int, mark string) int {
	if n := strings.Index(text[i:], mark); n >= 0 {
		return i + n + len(mark)
	}
	return len(text)
}
