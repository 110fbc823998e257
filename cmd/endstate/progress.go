package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows a person how far a command is, on stderr. Elsewhere than on a terminal it shows nothing.
type progress struct {
	out  io.Writer
	mu   sync.Mutex // between step and the clock
	bar  *progressbar.ProgressBar
	of   int
	stop chan struct{}
	once sync.Once
	done sync.WaitGroup
}

// It is shown until a result is printed, or the command ends.
func (a *app) progress() *progress {
	p := &progress{stop: make(chan struct{})}
	a.shown = p
	if f, ok := a.stderr.(*os.File); !ok || !term.IsTerminal(int(f.Fd())) {
		return p
	}
	p.out = a.stderr
	p.done.Go(func() { // a step may take long: the time goes on meanwhile
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-p.stop:
				return
			case <-ticker.C:
				p.mu.Lock()
				if p.bar != nil {
					_ = p.bar.RenderBlank()
				}
				p.mu.Unlock()
			}
		}
	})
	return p
}

// step shows that done of all steps are done, and which is next.
func (p *progress) step(done, of int, next string) {
	if p.out == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar == nil || p.of != of {
		p.of = of
		p.bar = progressbar.NewOptions(of, progressbar.OptionSetWriter(p.out), progressbar.OptionSetElapsedTime(true),
			progressbar.OptionSetPredictTime(false), progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetSpinnerChangeInterval(0)) // else a goroutine of its own goes on to write
	}
	p.bar.Describe(graphic(next))
	_ = p.bar.Set(done) // what fails is the terminal
}

// busy shows what is being done where nobody knows how much there is of it.
func (p *progress) busy(what string) { p.step(0, -1, what) }

// end removes the bar, so that it doesn't stand among the results.
func (p *progress) end() {
	if p == nil {
		return
	}
	p.once.Do(func() {
		close(p.stop)
		p.done.Wait()
		if p.bar != nil {
			_ = p.bar.Clear()
		}
	})
}
