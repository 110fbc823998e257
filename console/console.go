package console

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/relay"
)

//go:embed assets pages
var files embed.FS

// Console is the handler of all pages. It is safe for concurrent use.
type Console struct {
	cfg     Config
	admin   *relay.Admin
	db      database
	sampler sampler
	pages   map[string]*template.Template
	handler http.Handler

	auditing sync.Mutex // held while duplicates are counted
	audited  auditState
}

var _ http.Handler = (*Console)(nil)

// ServeHTTP implements http.Handler. The request's path is the one below the console's own: see http.StripPrefix.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for name, value := range map[string]string{
		"Content-Security-Policy":      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"X-Content-Type-Options":       "nosniff",
		"X-Frame-Options":              "DENY",
		"Referrer-Policy":              "same-origin",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"Cache-Control":                "no-store",
		"Vary":                         "Accept",
	} {
		w.Header().Set(name, value)
	}
	if r.URL.Path == "" { // all links of the pages are relative, and need the slash
		requested, _, _ := strings.Cut(r.RequestURI, "?")
		w.Header().Set("Location", path.Base(requested)+"/")
		w.WriteHeader(http.StatusMovedPermanently)
		return
	}
	c.handler.ServeHTTP(w, r)
}

func (c *Console) routes() http.Handler {
	mux := http.NewServeMux()
	pages := map[string]func(*request) (any, error){
		"GET /{$}":          c.overview,
		"GET /events":       c.events,
		"GET /events/{id}":  c.event,
		"GET /aggregate":    c.aggregate,
		"GET /dead":         c.dead,
		"POST /dead":        c.intervene,
		"GET /subscription": c.subscription,
		"POST /replay":      c.replay,
		"POST /drop":        c.drop,
		"GET /history":      c.history,
		"GET /audit":        c.audit,
		"POST /audit":       c.runAudit,
	}
	for pattern, page := range pages {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, page) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		c.serve(w, r, func(*request) (any, error) { return nil, failure{http.StatusNotFound, "There is no such page."} })
	})
	assets, err := fs.Sub(files, "assets")
	if err != nil {
		panic(err) // they are embedded
	}
	mux.Handle("GET /assets/", http.StripPrefix("/assets/", http.FileServerFS(assets)))
	protection := http.NewCrossOriginProtection()
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.cfg.Logger.WarnContext(r.Context(), "console: a request from another origin was refused", "path", r.URL.Path, "origin", r.Header.Get("Origin"))
		c.serve(w, r, func(*request) (any, error) {
			return nil, failure{http.StatusForbidden, "The request came from another site, and was refused."}
		})
	}))
	return protection.Handler(mux)
}

// request is one that a page answers.
type request struct {
	*http.Request
	console *Console
	user    string
	json    bool
	page    page
	see     string // the Location to which the answer leads; empty: none
}

// page is what each template gets.
type page struct {
	Site, Title, Here string
	Base              string // the way up to the console's root, to which all links are relative
	At                time.Time
	User              string
	Actions           bool
	Token             string
	Every             float64 // seconds
	Data              any
}

// failure is an error that the user sees.
type failure struct {
	status int
	text   string
}

func (f failure) Error() string { return f.text }

// serve runs a page, and writes its answer.
func (c *Console) serve(w http.ResponseWriter, r *http.Request, show func(*request) (any, error)) {
	accept := r.Header.Get("Accept")
	ctx, cancel := context.WithTimeout(r.Context(), patience+c.cfg.Audit.Timeout)
	defer cancel()
	q := &request{Request: r.WithContext(ctx), console: c, user: c.cfg.User(r), json: strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")}
	q.page = page{Site: c.cfg.Title, At: time.Now().UTC(), User: q.user, Actions: c.cfg.Actions && q.user != "", Every: c.cfg.Every.Seconds(), Base: "./"}
	if depth := strings.Count(r.URL.Path, "/") - 1; depth > 0 {
		q.page.Base = strings.Repeat("../", depth)
	}
	q.page.Token = c.token(q.user, time.Now())
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	data, err := q.try(show)
	status := http.StatusOK
	if err != nil {
		f := c.explain(q, err)
		status, data = f.status, struct {
			Error string `json:"error"`
		}{f.text}
		q.page.Title, q.page.Here = http.StatusText(f.status), "error"
	}
	if q.see != "" && err == nil && !q.json {
		w.Header().Set("Location", q.page.Base+q.see)
		w.WriteHeader(http.StatusSeeOther)
		return
	}
	var body bytes.Buffer
	contentType := "text/html; charset=utf-8"
	if q.json {
		contentType = "application/json"
		if c.cfg.Actions {
			w.Header().Set("X-Endstate-Token", q.page.Token)
		}
		var text []byte
		if text, err = json.MarshalIndent(data, "", "  "); err == nil {
			body.WriteString(escapeJSON(string(text)) + "\n")
		}
	} else {
		q.page.Data = data
		err = c.pages[q.page.Here].ExecuteTemplate(&body, "layout", &q.page)
	}
	if err != nil {
		c.cfg.Logger.ErrorContext(r.Context(), "console: a page can't be written", "path", r.URL.Path, "error", err)
		http.Error(w, "The page can't be written.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// try runs a page. A form must have a token.
func (r *request) try(show func(*request) (any, error)) (any, error) {
	if r.Method == http.MethodPost {
		if err := r.ParseForm(); err != nil {
			return nil, failure{http.StatusBadRequest, "The form can't be read."}
		}
		token := r.PostForm.Get("token")
		if token == "" {
			token = r.Header.Get("X-Endstate-Token")
		}
		if !r.console.valid(token, r.user) {
			return nil, failure{http.StatusForbidden, "The form is too old, or not of this site. Go back, load the page again, and repeat what you did."}
		}
	}
	return show(r)
}

// explain says what an error means to the user. What isn't theirs goes to the log.
func (c *Console) explain(r *request, err error) failure {
	if f, ok := errors.AsType[failure](err); ok {
		return f
	}
	known := map[error]int{outbox.ErrConfig: http.StatusUnprocessableEntity, relay.ErrNotFound: http.StatusNotFound, relay.ErrNoSubscription: http.StatusNotFound, relay.ErrLive: http.StatusConflict}
	for target, status := range known {
		if errors.Is(err, target) {
			return failure{status, err.Error()}
		}
	}
	c.cfg.Logger.ErrorContext(r.Context(), "console: a page failed", "path", r.URL.Path, "error", err)
	if errors.Is(err, context.DeadlineExceeded) {
		return failure{http.StatusServiceUnavailable, "The database took too long."}
	}
	return failure{http.StatusInternalServerError, "The database did not answer as expected. The service's log has the reason."}
}

// may reports whether the user may do something.
func (r *request) may(action Action, subscription string) bool {
	return r.console.cfg.Authorize(r.Request, Access{r.user, action, subscription}) == nil
}

// must is may, with the error for where they may not.
func (r *request) must(action Action, subscription string) error {
	c := r.console
	switch action {
	case View, Payload, Audit:
	default:
		if !c.cfg.Actions {
			return failure{http.StatusForbidden, "This console only reads."}
		}
		if r.user == "" {
			return failure{http.StatusForbidden, "It isn't known who you are, and what is done is recorded. Log in."}
		}
	}
	if action == Payload && !c.cfg.ShowPayloads {
		return failure{http.StatusForbidden, "This console shows no payloads."}
	}
	if err := c.cfg.Authorize(r.Request, Access{r.user, action, subscription}); err != nil {
		c.cfg.Logger.WarnContext(r.Context(), "console: refused", "user", r.user, "action", action, "subscription", subscription, "error", err)
		return failure{http.StatusForbidden, "You may not do this."}
	}
	return nil
}

// within bounds what a page asks of the database.
func (r *request) within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), patience)
}

// tokenLife is how long a form may be left open, and half of it again.
const tokenLife = 8 * time.Hour

// token is what a form must bring back: it is the user's, and for a while.
func (c *Console) token(user string, now time.Time) string {
	return c.tokenOf(user, now.Unix()/int64(tokenLife.Seconds()))
}

func (c *Console) tokenOf(user string, period int64) string {
	mac := hmac.New(sha256.New, c.cfg.Key)
	fmt.Fprintf(mac, "endstate console\x00%d\x00%s", period, user)
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (c *Console) valid(token, user string) bool {
	period := time.Now().Unix() / int64(tokenLife.Seconds())
	now, before := c.tokenOf(user, period), c.tokenOf(user, period-1)
	return subtle.ConstantTimeCompare([]byte(token), []byte(now))|subtle.ConstantTimeCompare([]byte(token), []byte(before)) == 1
}

// parse reads the templates.
func (c *Console) parse() error {
	funcs := template.FuncMap{
		"line": line, "long": long, "field": func(text string) string { return graphic(text, false) }, "span": span, "when": when,
		"num":     func(n int64) string { return number(n) },
		"int":     func(n int) string { return number(n) },
		"rate":    func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) },
		"instant": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"ago":     func(t time.Time) string { return span(time.Since(t).Seconds()) },
		"isEvent": func(id uuid.UUID) bool { return id != uuid.Nil },
		"bars":    timelineBars,
		"list":    func(v ...any) []any { return v },
	}
	list, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		return err
	}
	for _, name := range list {
		short := strings.TrimSuffix(path.Base(name), ".html")
		if short == "layout" {
			continue
		}
		t, err := template.New(short).Funcs(funcs).ParseFS(files, "pages/layout.html", name)
		if err != nil {
			return err
		}
		c.pages[short] = t
	}
	return nil
}
