package finalize

import (
	"context"
	"errors"
	"fmt"

	"github.com/endstate-go/endstate/guard"
)

// ErrTenant is returned when it isn't known whose aggregate a call is about: Config.Tenant failed or named nobody, or there is
// none though the database's connections differ in what the names of the guard's and the outbox's tables mean. Nothing was
// written.
var ErrTenant = errors.New("finalize: whose aggregate it is isn't known")

// tenant names the tenant for whom a call is made, "" if there are none.
func (f *core) tenant(ctx context.Context) (string, error) {
	if f.cfg.Tenant == nil {
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

// ref names the aggregate that a call is about.
func (f *core) ref(ctx context.Context, key guard.Key) (guard.Ref, error) {
	ref := guard.Ref{Aggregate: f.cfg.Aggregate, Key: key}
	var err error
	if ref.Tenant, err = f.tenant(ctx); err != nil {
		return ref, fmt.Errorf("%v: %w", ref, err)
	}
	return ref, nil
}
