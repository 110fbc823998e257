package lock

import (
	"fmt"
	"time"
)

// duration is a field of a configuration.
type duration struct {
	name     string
	value    *time.Duration
	fallback time.Duration
}

// defaults puts in what is left zero, and refuses what is shorter than a millisecond: Redis and PostgreSQL know nothing
// shorter, and would take it for none.
func defaults(fields ...duration) error {
	for _, f := range fields {
		if *f.value == 0 {
			*f.value = f.fallback
		}
		if *f.value < time.Millisecond {
			return fmt.Errorf("%w: %s is %v, which is less than a millisecond", ErrConfig, f.name, *f.value)
		}
	}
	return nil
}
