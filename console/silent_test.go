package console_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/internal/dbtest"
	"github.com/endstate-go/endstate/internal/pgfault"
	"github.com/endstate-go/endstate/migrations"
)

// F49: the figures' connection goes silent. The console says so, and has new figures soon after, though a sample that takes long is
// otherwise followed by a long pause.
func TestFiguresGoOnAfterASilentConnection(t *testing.T) {
	t.Parallel()
	direct := dbtest.Pool(t)
	require.NoError(t, migrations.Apply(t.Context(), direct))
	proxy := pgfault.New(t, direct.Config().ConnString())
	w := &world{T: t, name: "pgx", pool: dbtest.PoolOn(t, proxy.URL())}
	s := w.console(console.Config{})
	silence := proxy.Arm(&pgfault.Fault{Match: func(sql string) bool { return strings.Contains(sql, "types FROM") }, Do: pgfault.HalfOpen})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	silence.RequireFired(t)
	type overview struct {
		At      time.Time
		Problem string
	}
	looked := func(what string, cond func(v overview) bool) {
		t.Helper()
		require.Eventually(t, func() bool { var v overview; s.json("/", &v); return cond(v) }, 3*time.Minute, 100*time.Millisecond, what)
	}
	looked("it says so", func(v overview) bool { return v.Problem != "" })
	looked("it has figures", func(v overview) bool { return v.Problem == "" && !v.At.IsZero() })
	cancel()
	<-ended
}
