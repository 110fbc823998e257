package finalize

import (
	"context"
	"errors"
	"fmt"
)

// ErrTenant is returned when it isn't known whose aggregate a call is about: Config.Tenant failed or named nobody, or there is
// none though the database's connections differ in what the names of the guard's and the outbox's tables mean. Nothing was
// written.
var ErrTenant = errors.New("finalize: whose aggregate it is isn't known")

// tenant names the tenant for whom a call is made, "" if there are none.
func (f *core) tenant(ctx context.Context) (string, error) {
	if f.cfg.Tenant == nil {
		if f.path == nil {
			return "", nil
		}
		return "", f.path.refusal(f.now())
	}
	name, err := f.cfg.Tenant(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: Config.Tenant: %w", ErrTenant, err)
	}
	if err := checkName(name); err != nil {
		return "", fmt.Errorf("%w: the name that Config.Tenant returned %w", ErrTenant, err)
	}
	return name, nil
}
