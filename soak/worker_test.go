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
	"github.com/redis/go-redis/v9"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/lock/lockredis"
)

// workerEnv tells a worker what to do: a process of its own, which works until its input ends.
const workerEnv = "ENDSTATE_TEST_SOAK_WORKER"

type worker struct {
	Role   string
	Name   string // begins the ids of its calls
	URL    string
	Seed   uint64
	Broken string // how the door is broken, or ""
	addresses
}

// The roles of processes.
const (
	producing = "producer" // calls the library
	relaying  = "relay"    // publishes to the brokers
	consuming = "consumer" // applies what the brokers deliver, and what it reads from the log
	serving   = "nats"     // is a broker
)

const (
	goroutines = 6  // of a producer
	windowSize = 60 // how many keys are called at a time
)

// work is a worker's main function.
func work(text string) error {
	var w worker
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	if w.Role == serving {
		return serve(w)
	}
	config, err := pgxpool.ParseConfig(w.URL)
	if err != nil {
		return err
	}
	config.MaxConns = goroutines
	if w.Role != producing {
		config.MaxConns = 24
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		return err
	}
	defer pool.Close()
	switch w.Role {
	case relaying:
		return w.relay(untilInputEnds(), pool)
	case consuming:
		return w.consume(untilInputEnds(), pool)
	}
	if w.Broken != "" {
		return w.callUntilEnd(broken{pool, w.Broken})
	}
	db, err := sql.Open("pgx", w.URL)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(goroutines)
	db.SetMaxIdleConns(goroutines)
	client := w.redis()
	defer client.Close()
	locker, err := lockredis.New(client, &lockredis.Config{TTL: lockTTL, Logger: discard()})
	if err != nil {
		return err
	}
	defer locker.Close()
	library, err := newLibrary(pool, db, finalize.Locker(locker))
	if err != nil {
		return err
	}
	return w.callUntilEnd(library)
}

func (w worker) redis() *redis.Client {
	return redis.NewClient(&redis.Options{Addr: w.Redis, DialTimeout: time.Second, ReadTimeout: time.Second, WriteTimeout: time.Second})
}

// untilInputEnds returns a context that ends when the parent closes the pipe.
func untilInputEnds() context.Context {
	ctx, stop := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return ctx
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
			dice := rand.New(rand.NewPCG(w.Seed, uint64(g)))
			for n := 0; !ended.Load(); n++ {
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // for a connection that has gone silent
				id, window := fmt.Sprintf("%s.%d.%d", w.Name, g, n), window.Load()
				library, whole := door.(*library)
				switch n := dice.IntN(240); {
				case whole && n < 24:
					several(id, window, windowSize, dice, func(records []*record) { library.sweep(ctx, records) })
				case whole && n < 27:
					several(id, window, windowSize/3, dice, func(records []*record) { library.runSweeper(ctx, records) })
				case whole && n < 35:
					step(ctx, library.pool, dice)
				default:
					call(ctx, door, dice, id, pick(dice, window))
				}
				cancel()
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
func pick(dice *rand.Rand, window int64) int64 {
	if dice.IntN(10) == 0 {
		return -1 - window/hot
	}
	return window + dice.Int64N(windowSize)
}

// call calls once. What it says reaches the parent though the process is killed in the next moment.
func call(ctx context.Context, door door, dice *rand.Rand, id string, key int64) {
	r := record{Call: id, Key: key, At: now()}
	say(r)
	door.call(ctx, dice, &r)
	r.At = now()
	say(r)
	if r.Result == failed {
		time.Sleep(10 * time.Millisecond) // the database may be away: nothing is gained by asking faster
	}
}

// several calls once for all keys of a part of the window that are in one group.
func several(id string, window int64, size int, dice *rand.Rand, call func([]*record)) {
	var records []*record
	first := window + dice.Int64N(int64(len(groups())))
	for n := range int64(size / len(groups())) {
		r := &record{Call: fmt.Sprintf("%s.%d", id, n), Key: first + n*int64(len(groups())), At: now()}
		say(*r)
		records = append(records, r)
	}
	call(records)
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
