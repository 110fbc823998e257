package lease

import (
	"errors"
	"fmt"
	"time"
)

// ErrConfig is lock.ErrConfig.
var ErrConfig = errors.New("lock: invalid configuration")

// Default puts a default into a field of a configuration that is zero, and refuses what is shorter than a millisecond: Redis
// and PostgreSQL know nothing shorter, and would take it for none.
func Default(name string, d *time.Duration, fallback time.Duration) error {
	if *d == 0 {
		*d = fallback
	}
	if *d < time.Millisecond {
		return fmt.Errorf("%w: %s is %v, which is less than a millisecond", ErrConfig, name, *d)
	}
	return nil
}
