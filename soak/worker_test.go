package soak

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// workerEnv tells a worker what to do: a process of its own, which calls until its input ends.
const workerEnv = "ENDSTATE_TEST_SOAK_WORKER"

type worker struct {
	Name   string // begins the ids of its calls
	URL    string
	Broken string // how the door is broken, or ""
}

const (
	goroutines = 6  // of a worker
	windowSize = 60 // how many keys are called at a time
)

// work is a worker's main function.
func work(text string) error {
	var w worker
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(w.URL)
	if err != nil {
		return err
	}
	config.MaxConns = goroutines
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	defer pool.Close()
	db, err := sql.Open("pgx", w.URL)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(goroutines)
	db.SetMaxIdleConns(goroutines)
	var door door = broken{pool, w.Broken}
	if w.Broken == "" {
		if door, err = newLibrary(pool, db); err != nil {
			return err
		}
	}
	return w.callUntilEnd(door)
}

// callUntilEnd calls for the keys of the window, which moves on as the parent says, until the parent closes the pipe.
func (w worker) callUntilEnd(door door) error {
	input := bufio.NewReader(os.Stdin)
	var window atomic.Int64
	next := func() error {
		var n int64
		_, err := fmt.Fscanln(input, &n)
		if err == nil {
			window.Store(n)
		}
		return err
	}
	err := next()
	var ended atomic.Bool
	var group sync.WaitGroup
	for g := range goroutines {
		group.Go(func() {
			ctx := context.Background()
			for n := 0; !ended.Load(); n++ {
				id, window := fmt.Sprintf("%s.%d.%d", w.Name, g, n), window.Load()
				if library, ok := door.(*library); ok && rand.IntN(40) == 0 {
					sweep(ctx, library, id, window)
				} else {
					call(ctx, door, id, pick(window))
				}
			}
		})
	}
	for err == nil {
		err = next()
	}
	ended.Store(true)
	group.Wait()
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// hot is how many keys the window moves on while one hot key lasts.
const hot = 500

// pick chooses a key: one of the window, or now and then the hot one, whose number is negative.
func pick(window int64) int64 {
	if rand.IntN(5) == 0 {
		return -1 - window/hot
	}
	return window + rand.Int64N(windowSize)
}

// call calls once. What it says reaches the parent though the process is killed in the next moment.
func call(ctx context.Context, door door, id string, key int64) {
	r := record{Call: id, Key: key, At: now()}
	say(r)
	door.call(ctx, &r)
	r.At = now()
	say(r)
	if r.Result == failed {
		time.Sleep(10 * time.Millisecond) // the database may be away: nothing is gained by asking faster
	}
}

// sweep calls once for all keys of the window that are in one group.
func sweep(ctx context.Context, library *library, id string, window int64) {
	var records []*record
	for n := range int64(windowSize / len(groups())) {
		r := &record{Call: fmt.Sprintf("%s.%d", id, n), Key: window + n*int64(len(groups())), At: now()}
		say(*r)
		records = append(records, r)
	}
	library.sweep(ctx, records)
	for _, r := range records {
		r.At = now()
		say(*r)
	}
}

func say(r record) {
	line, err := json.Marshal(r)
	if err != nil {
		panic(err) // it has only strings and numbers
	}
	// A line that is shorter than a pipe's atomic write doesn't mix with others.
	_, _ = os.Stdout.Write(append(line, '\n'))
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
