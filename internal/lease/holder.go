package lease

import "context"

// maxHolder is the longest name of a holder, in bytes.
const maxHolder = 200

type holderKey struct{}

// WithHolder returns a context in which locks are asked for by name: package finalize gives it, which knows the trigger, and
// the locks store it.
func WithHolder(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, holderKey{}, name[:min(len(name), maxHolder)])
}

// Holder returns the name that WithHolder gave, or "".
func Holder(ctx context.Context) string {
	name, _ := ctx.Value(holderKey{}).(string)
	return name
}
