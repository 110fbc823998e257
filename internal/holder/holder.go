// Package holder carries, in a context, the name of who asks for a lock: from package finalize, which knows the trigger, to
// package lock, which stores it. Neither imports the other.
package holder

import "context"

type key struct{}

// With returns a context in which locks are asked for by name.
func With(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, key{}, name)
}

// Of returns the name that With gave, or "".
func Of(ctx context.Context) string {
	name, _ := ctx.Value(key{}).(string)
	return name
}
