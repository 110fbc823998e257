//go:build browser

package browser_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// device is what a person looks at the console with.
type device struct {
	name          string
	width, height int64
	scheme        string
}

func (d device) String() string { return d.name + ", " + d.scheme }

var devices = []device{{"desktop", 1280, 800, "light"}, {"desktop", 1280, 800, "dark"}, {"phone", 390, 844, "light"}, {"phone", 390, 844, "dark"}}

// browser is a tab.
type browser struct {
	*testing.T
	ctx context.Context

	mu     sync.Mutex
	faults []string // what the browser complained of
}

// chromium is the browser's path, which make test-console says.
func chromium(t *testing.T) string {
	t.Helper()
	path := os.Getenv("ENDSTATE_TEST_CHROMIUM")
	require.NotEmpty(t, path, "needs Chromium: run make test-console, or set ENDSTATE_TEST_CHROMIUM")
	return path
}

func open(t *testing.T, d device) *browser {
	t.Helper()
	allocated, stop := chromedp.NewExecAllocator(context.Background(), chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, chromedp.Headless, chromedp.Flag("disable-dev-shm-usage", true), chromedp.WSURLReadTimeout(2*time.Minute))
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(allocated)
	t.Cleanup(closeTab)
	b := &browser{T: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.faults = append(b.faults, fmt.Sprintf("%+v", e))
		case *log.EventEntryAdded:
			if e.Entry.Level == "error" && !strings.HasSuffix(e.Entry.URL, "favicon.ico") {
				b.faults = append(b.faults, fmt.Sprintf("%+v", e.Entry))
			}
		}
	}))
	size := []chromedp.EmulateViewportOption{}
	if d.name == "phone" {
		size = append(size, chromedp.EmulateMobile)
	}
	b.run(chromedp.EmulateViewport(d.width, d.height, size...), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: d.scheme}}})
		return err
	}))
	return b
}

// limited bounds what one step may take.
func (b *browser) limited() (context.Context, context.CancelFunc) {
	return context.WithTimeout(b.ctx, time.Minute)
}

func (b *browser) run(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	require.NoError(b, chromedp.Do(ctx, steps...))
}

// visit opens a page.
func (b *browser) visit(url string) {
	b.Helper()
	b.run(chromedp.Navigate(url), chromedp.WaitReady(chromedp.CSS("main")))
}

// submit clicks, and waits for the next page.
func (b *browser) submit(selector string) {
	b.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	_, err := chromedp.RunResponse(ctx, chromedp.Click(chromedp.CSS(selector)))
	require.NoError(b, err, selector)
	b.run(chromedp.WaitReady(chromedp.CSS("main")))
}

func (b *browser) text(selector string) string {
	b.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS(selector)))
	require.NoError(b, err, selector)
	return text
}

// until waits until a condition holds on the page, which may lead to other pages meanwhile.
func (b *browser) until(condition string) {
	b.Helper()
	const most = 4 * time.Minute // on a busy machine, where a sample takes long, it is long until the next one
	require.Eventually(b, func() bool {
		ctx, cancel := b.limited()
		defer cancel()
		holds, err := chromedp.Run(ctx, chromedp.Evaluate[bool](condition))
		return err == nil && holds
	}, most, 50*time.Millisecond, condition)
}

// eval returns what a script says, or what its promise comes to.
func eval[T any](b *browser, script string) T {
	b.Helper()
	ctx, cancel := b.limited()
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(b, err)
	return value
}

// requireSound asserts that the page has no fault that axe finds or that the browser complained of, and isn't wider than the
// screen.
func (b *browser) requireSound(about string) {
	b.Helper()
	eval[int](b, axe(b.T)+";0")
	violations := eval[[]string](b, `axe.run().then(r => r.violations.map(v => v.id + ": " + v.help + " " + v.nodes.slice(0, 3).map(n => n.html.slice(0, 200)).join(" | ")))`)
	require.Empty(b, violations, about)
	over := eval[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth")
	require.LessOrEqual(b, over, 0, "%s is wider than the screen", about)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b, b.faults, about)
}

// axeVersion is of npm's package axe-core.
const axeVersion = "4.14.1"

var fetchAxe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "axe")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{{"npm", "pack", "--silent", "axe-core@" + axeVersion}, {"tar", "-xzf", "axe-core-" + axeVersion + ".tgz"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	source, err := os.ReadFile(filepath.Join(dir, "package", "axe.min.js"))
	return string(source), err
})

// axe is the source of axe-core, which is too large to be checked in.
func axe(t *testing.T) string {
	t.Helper()
	source, err := fetchAxe()
	require.NoError(t, err)
	return source
}

// shoot writes a picture of the page for the documentation, where ENDSTATE_TEST_SCREENSHOTS names a folder.
func (b *browser) shoot(name string) {
	b.Helper()
	dir := os.Getenv("ENDSTATE_TEST_SCREENSHOTS")
	if dir == "" {
		return
	}
	ctx, cancel := b.limited()
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(b, err)
	require.NoError(b, os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644))
}
