package idempotencykey_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox/inbox"
	"github.com/endstate-go/endstate/recipes/idempotencykey"
	"github.com/endstate-go/endstate/recipes/internal/batchtest"
)

// service is a server with the operator's button: POST /batches/{id}/complete.
type service struct {
	*batchtest.DB
	server  *httptest.Server
	runs    atomic.Int32
	entered chan struct{} // gets a value when the work has begun, if it isn't nil
	release chan struct{} // work goes on when it is closed
	crash   atomic.Bool   // before the commit
	cut     atomic.Bool   // after it, before the answer
}

func start(t *testing.T, db *batchtest.DB) *service {
	t.Helper()
	s := &service{DB: db}
	fin, err := finalize.NewSQL(db.DB, batchtest.Config())
	require.NoError(t, err)
	table, err := inbox.NewTableSQL(db.DB, &inbox.TableConfig{Consumer: "http", Wait: -1, MaxAttempts: -1, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, table.Migrate(t.Context()))
	complete := func(ctx context.Context, tx *sql.Tx, r *http.Request, _ []byte) (idempotencykey.Answer, error) {
		s.runs.Add(1)
		if s.entered != nil {
			s.entered <- struct{}{}
			<-s.release
		}
		receipt, err := fin.DoTx(ctx, tx, guard.Text(r.PathValue("id")), "operator", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			return batchtest.Completed(), nil
		})
		if err != nil {
			return idempotencykey.Answer{}, err
		}
		if s.crash.Load() {
			panic(http.ErrAbortHandler)
		}
		body, err := json.Marshal(receipt)
		return idempotencykey.Answer{Status: http.StatusCreated, ContentType: "application/json", Body: body}, err
	}
	client := func(r *http.Request) string { return r.Header.Get("Account") }
	handler := idempotencykey.Handler(table, client, 1<<20, complete)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /batches/{id}/complete", func(w http.ResponseWriter, r *http.Request) {
		if s.cut.Load() {
			w = httptest.NewRecorder()
			defer func() { panic(http.ErrAbortHandler) }()
		}
		handler.ServeHTTP(w, r)
	})
	s.server = httptest.NewServer(mux)
	t.Cleanup(s.server.Close)
	return s
}

type answer struct {
	status int
	body   string
}

func (s *service) post(t *testing.T, account, key, id, body string) (answer, error) {
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.server.URL+"/batches/"+id+"/complete", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Account", account)
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	response, err := s.server.Client().Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, string(text)}, err
}

func (s *service) must(t *testing.T, account, key, id, body string) answer {
	t.Helper()
	a, err := s.post(t, account, key, id, body)
	require.NoError(t, err)
	return a
}

const key = `"8e03978e-40d5-43dd-bc93-6894a57f9324"`

func TestOnePostFiveTimesAtOnceAndAfterACrash(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		s := start(t, db)
		s.crash.Store(true)
		_, err := s.post(t, "a", key, "b1", "{}")
		require.Error(t, err, "the connection ends")
		s.RequireOpen()
		s.crash.Store(false)

		s.cut.Store(true)
		s.runs.Store(0)
		_, err = s.post(t, "a", key, "b1", "{}")
		require.Error(t, err, "all is committed, and the answer lost")
		s.cut.Store(false)
		s.RequireComplete("")

		// Another process, after the crash of the first.
		other := start(t, db)
		var all sync.WaitGroup
		answers := make([]answer, 5)
		for i := range answers {
			all.Go(func() {
				var err error
				if answers[i], err = other.post(t, "a", key, "b1", "{}"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for _, a := range answers {
			require.Equal(t, answers[0], a)
		}
		require.Equal(t, http.StatusCreated, answers[0].status)
		require.Contains(t, answers[0].body, `"won":true`)
		require.EqualValues(t, 1, s.runs.Load())
		require.Zero(t, other.runs.Load())
		s.RequireComplete("")
	})
}

func TestANewPostFiveTimesAtOnce(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		s := start(t, db)
		var all sync.WaitGroup
		answers := make([]answer, 5)
		for i := range answers {
			all.Go(func() {
				var err error
				if answers[i], err = s.post(t, "a", key, "b1", "{}"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		again := s.must(t, "a", key, "b1", "{}")
		require.Equal(t, http.StatusCreated, again.status)
		require.Contains(t, again.body, `"won":true`)
		for _, a := range answers {
			if a.status != http.StatusConflict { // the first one was in progress
				require.Equal(t, again, a)
			}
		}
		require.EqualValues(t, 1, s.runs.Load())
		s.RequireComplete("")
	})
}

func TestARequestInProgress(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		if db.SQLite {
			return // one writer at a time: the others wait for the database
		}
		s := start(t, db)
		s.entered, s.release = make(chan struct{}), make(chan struct{})
		first := make(chan answer, 1)
		go func() {
			a, err := s.post(t, "a", key, "b1", "{}")
			if err != nil {
				t.Error(err)
			}
			first <- a
		}()
		<-s.entered
		for range 4 {
			require.Equal(t, http.StatusConflict, s.must(t, "a", key, "b1", "{}").status)
		}
		close(s.release)
		require.Equal(t, http.StatusCreated, (<-first).status)
		require.Equal(t, http.StatusCreated, s.must(t, "a", key, "b1", "{}").status)
		require.EqualValues(t, 1, s.runs.Load())
	})
}

func TestKeys(t *testing.T) {
	t.Parallel()
	batchtest.Each(t, func(t *testing.T, db *batchtest.DB) {
		s := start(t, db)
		s.DB.Exec(`INSERT INTO batches (id, status) VALUES ('b2', 'PENDING')`)
		for _, bad := range []string{"", "unquoted", `""`, `"a`, `"a"b"`, `"a\b"`, `"` + strings.Repeat("x", 300) + `"`} {
			a := s.must(t, "a", bad, "b1", "{}")
			require.Equal(t, http.StatusBadRequest, a.status, bad)
			require.Contains(t, a.body, "Idempotency-Key")
		}
		require.Zero(t, s.runs.Load())

		require.Equal(t, http.StatusCreated, s.must(t, "a", key, "b1", "{}").status)
		require.Equal(t, http.StatusUnprocessableEntity, s.must(t, "a", key, "b1", `{"other": true}`).status, "another body")
		require.Equal(t, http.StatusUnprocessableEntity, s.must(t, "a", key, "b2", "{}").status, "another path")
		require.EqualValues(t, 1, s.runs.Load())

		again := s.must(t, "b", key, "b1", "{}")
		require.Equal(t, http.StatusCreated, again.status, "another account's key")
		require.Contains(t, again.body, `"won":false`)
		require.Equal(t, http.StatusInternalServerError, s.must(t, "a", `"\"\\"`, "nowhere", "{}").status)
		require.Equal(t, http.StatusInternalServerError, s.must(t, "a", `"\"\\"`, "nowhere", "{}").status, "an error isn't kept")
		require.EqualValues(t, 4, s.runs.Load())
	})
}
