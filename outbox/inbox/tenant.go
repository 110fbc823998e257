package inbox

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrTenant is returned when it isn't known whose event a call is about: the configuration's Tenant failed or named nobody.
// Nothing was applied.
var ErrTenant = errors.New("inbox: the tenant of the event is unknown")

// tenantEscapes keeps consumers of two tenants apart, whatever both are called.
var tenantEscapes = strings.NewReplacer("%", "%25", "/", "%2F")

// consumerOf is the name under which a consumer's records are kept: where there are tenants, each has a consumer of its own.
func consumerOf(ctx context.Context, tenant func(context.Context) (string, error), consumer string) (string, error) {
	if tenant == nil {
		return consumer, nil
	}
	name, err := tenant(ctx)
	if err == nil {
		if err = checkText(name, MaxConsumer); err == nil {
			return "tenant/" + tenantEscapes.Replace(name) + "/" + consumer, nil
		}
		err = fmt.Errorf("the name %w", err)
	}
	return "", fmt.Errorf("%w: consumer %s: Tenant: %w", ErrTenant, consumer, err)
}

func (t *Table[Tx]) consumer(ctx context.Context) (string, error) {
	return consumerOf(ctx, t.cfg.Tenant, t.cfg.Consumer)
}
