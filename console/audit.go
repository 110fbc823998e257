package console

import (
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/endstate-go/endstate/outbox/audit"
)

// auditState is the last count of duplicates.
type auditState struct {
	mu     sync.Mutex
	report *audit.Report
	at     time.Time
}

// auditView is the duplicates report.
type auditView struct {
	Table   string        `json:"table"`
	At      time.Time     `json:"at,omitzero"` // absent: nobody has had them counted yet
	Report  *audit.Report `json:"report,omitempty"`
	CanRun  bool          `json:"can_run"`
	Timeout float64       `json:"timeout_seconds"`
}

func (c *Console) audit(r *request) (any, error) {
	r.page.Title, r.page.Here = "Audit", "audit"
	if err := r.must(View, ""); err != nil {
		return nil, err
	}
	c.audited.mu.Lock()
	defer c.audited.mu.Unlock()
	return auditView{c.cfg.Audit.Table, c.audited.at, c.audited.report, r.may(Audit, ""), c.cfg.Audit.Timeout.Seconds()}, nil
}

// runAudit has the duplicates counted, by one request at a time: it reads the whole table.
func (c *Console) runAudit(r *request) (any, error) {
	r.page.Title, r.page.Here = "Audit", "audit"
	if err := r.must(Audit, ""); err != nil {
		return nil, err
	}
	if !c.auditing.TryLock() {
		return nil, failure{http.StatusConflict, "Somebody is having them counted. Wait for that."}
	}
	defer c.auditing.Unlock()
	report, err := c.db.audit(r.Context(), c.cfg.Audit)
	switch {
	case errors.Is(err, audit.ErrTimeout):
		return nil, failure{http.StatusServiceUnavailable, "The count took longer than it may. endstate audit db has more time."}
	case errors.Is(err, audit.ErrSchema), errors.Is(err, audit.ErrConfig):
		return nil, failure{http.StatusUnprocessableEntity, err.Error()}
	case err != nil:
		return nil, err
	}
	c.audited.mu.Lock()
	c.audited.report, c.audited.at = report, time.Now().UTC()
	c.audited.mu.Unlock()
	r.see = "audit"
	return c.audit(r)
}

// timelineBars are a timeline's bars: of all events, and of those that were published.
func timelineBars(timeline [audit.Buckets]audit.Bucket) map[string][]bar {
	var highest int64 = 1
	for _, b := range timeline {
		highest = max(highest, b.Events)
	}
	bars := map[string][]bar{}
	for i, b := range timeline {
		for kind, n := range map[string]int64{"all": b.Events, "published": b.Published} {
			if n > 0 {
				height := chartHeight * float64(n) / float64(highest)
				bars[kind] = append(bars[kind], bar{X: float64(i) * chartWidth / audit.Buckets, Y: chartHeight - height, Height: height})
			}
		}
	}
	return bars
}
