package finalize_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/endstate-go/endstate/finalize"
	"github.com/endstate-go/endstate/guard"
	"github.com/endstate-go/endstate/outbox"
)

// httpStatus is the status with which a handler answers a call's error. What may be called again is a 503, a client that is
// too early gets a 409, and what only the service's owner can set right is a 500.
func httpStatus(err error) int {
	switch {
	case err == nil:
		return http.StatusOK // also for a loser: its receipt is the winner's
	case errors.Is(err, guard.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, guard.ErrInvalidKey), errors.Is(err, guard.ErrNotTerminal), errors.Is(err, outbox.ErrInvalidEvent):
		return http.StatusUnprocessableEntity
	case errors.Is(err, finalize.ErrNotReady), errors.Is(err, finalize.ErrInProgress):
		return http.StatusConflict
	case errors.Is(err, finalize.ErrBusy), errors.Is(err, finalize.ErrLockUnavailable), errors.Is(err, finalize.ErrOutcomeUnknown),
		errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable // with Retry-After: calling again is safe
	}
	// ErrRewritten, ErrRefused, ErrAnomaly, ErrEventConflict, ErrSchema and whatever else the database says.
	return http.StatusInternalServerError
}

// A handler that finalizes, and answers with the receipt.
func Example_http() {
	db, done := exampleDB()
	defer done()
	fin := exampleFinalizer(db, guard.All(batchStatus(), guard.Ledger{}))
	ready := false
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		receipt, err := fin.Do(r.Context(), guard.Text(r.PathValue("id")), "api", func(context.Context, *sql.Tx) (finalize.Outcome, error) {
			if !ready {
				return finalize.Outcome{}, finalize.ErrNotReady
			}
			return finalize.Outcome{State: "COMPLETE_STABLE"}, nil
		})
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(httpStatus(err))
		if err == nil {
			_ = json.NewEncoder(w).Encode(receipt)
		}
	})
	mux := http.NewServeMux()
	mux.Handle("POST /batches/{id}/finalize", handler)
	post := func(id string) {
		answer := httptest.NewRecorder()
		mux.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/batches/"+id+"/finalize", nil))
		if answer.Code != http.StatusOK {
			fmt.Println(answer.Code)
			return
		}
		var receipt finalize.Receipt
		check(json.Unmarshal(answer.Body.Bytes(), &receipt))
		fmt.Println(answer.Code, receipt.Won, receipt.State, receipt.Trigger)
	}
	post("b1")
	post("b2")
	ready = true
	post("b1")
	post("b1")
	// Output:
	// 409
	// 404
	// 200 true COMPLETE_STABLE api
	// 200 false COMPLETE_STABLE api
}
