// Package schema is what ent's code is generated from.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// Batch is the service's model.
type Batch struct{ ent.Schema }

// Fields are the columns.
func (Batch) Fields() []ent.Field {
	return []ent.Field{
		field.String("id"),
		field.String("status"),
		field.String("note").Default(""),
		field.Int("version").Default(1),
	}
}
