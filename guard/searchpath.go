package guard

// Unqualified is what a Guard may implement to say which of its tables are named without a schema, so that the connection's
// search_path says what they are. Finalizers without a Tenant refuse connections that differ in that.
type Unqualified interface {
	// Unqualified returns the tables' names, unquoted.
	Unqualified() []string
}

var (
	_ Unqualified = Status{}
	_ Unqualified = Ledger{}
	_ Unqualified = all(nil)
)

// Unqualified implements Unqualified.
func (s Status) Unqualified() []string { return unqualified(s.Schema, s.Table) }

// Unqualified implements Unqualified.
func (l Ledger) Unqualified() []string { return unqualified(l.Schema, l.plain()) }

func unqualified(schema, table string) []string {
	if schema != "" {
		return nil
	}
	return []string{table}
}

// Unqualified implements Unqualified.
func (g all) Unqualified() []string {
	var names []string
	for _, guard := range g {
		if u, ok := guard.(Unqualified); ok {
			names = append(names, u.Unqualified()...)
		}
	}
	return names
}
