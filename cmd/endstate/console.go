package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/endstate-go/endstate/console"
	"github.com/endstate-go/endstate/guard"
)

// consoleTokenEnv is where the token comes from that lets people in who don't come from this machine.
const consoleTokenEnv = "ENDSTATE_CONSOLE_TOKEN"

// serving is one run of the console command.
type serving struct {
	*app
	cfg       console.Config
	listen    string
	user      string
	cert, key string
	log       *slog.Logger
}

// newConsole is the command that serves the console.
func newConsole(a *app) *cobra.Command {
	s := &serving{app: a}
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Serve pages to see what was finalized, what waits and what died, and to do something about it",
		Long: `Serve the console: subscriptions with their lag, dead letters, events, an aggregate's timeline, what people did, and duplicates.

By itself it only reads, and listens on this machine alone. Who opens it needs the link that is printed, which has a token in it:
other users of this machine, and pages in a browser, don't know it. To listen elsewhere it wants --tls-cert, and the token of the
environment's ` + consoleTokenEnv + ` (at least 16 characters).

It runs until SIGINT or SIGTERM. Exit status: 0 ended by a signal, 2 could not run.`,
		Example: `  endstate console --db postgres://localhost/shop
  ENDSTATE_CONSOLE_TOKEN=… endstate console --actions --by ann --listen 0.0.0.0:8443 --tls-cert cert.pem --tls-key key.pem`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s.log = a.logger(slog.LevelInfo)
			return s.run(cmd.Context())
		},
	}
	outboxFlags(cmd, &s.cfg.Outbox)
	flags := cmd.Flags()
	flags.StringVar(&s.listen, "listen", "127.0.0.1:7070", "`ADDRESS` to listen on; port 0 takes any that is free")
	flags.StringVar(&s.cfg.Ledger.Table, "ledger", guard.DefaultLedger, "the ledger's `TABLE`")
	flags.StringVar(&s.cfg.InboxTable, "inbox", "endstate_inbox", "the inbox's `TABLE`, if consumers have theirs in this database")
	flags.BoolVar(&s.cfg.Actions, "actions", false, "let people retry and discard dead letters, replay and drop subscriptions; needs --by")
	flags.StringVar(&s.user, "by", "", "`WHO` is recorded for what is done")
	flags.BoolVar(&s.cfg.ShowPayloads, "payloads", false, "let people see payloads when they ask for it")
	flags.StringVar(&s.cert, "tls-cert", "", "TLS: `FILE` with the console's certificate (PEM)")
	flags.StringVar(&s.key, "tls-key", "", "TLS: `FILE` with the certificate's key (PEM); default: that of --tls-cert")
	return cmd
}

func (s *serving) run(ctx context.Context) error {
	if s.cfg.Actions && s.user == "" {
		return errors.New("--actions needs --by: who did what is recorded")
	}
	tlsConfig, err := s.tls()
	if err != nil {
		return err
	}
	token, err := s.token(tlsConfig != nil)
	if err != nil {
		return err
	}
	use := reads
	if s.cfg.Actions {
		use = writes
	}
	_, db, err := s.admin(ctx, use, &s.cfg.Outbox)
	if err != nil {
		return err
	}
	defer db.close()
	s.cfg.Ledger.Schema, s.cfg.InboxSchema, s.cfg.Logger = s.cfg.Outbox.Schema, s.cfg.Outbox.Schema, s.log
	s.cfg.User = func(*http.Request) string { return s.user }
	c, err := newConsoleOn(db, &s.cfg)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	scheme := "http"
	if tlsConfig != nil {
		listener, scheme = tls.NewListener(listener, tlsConfig), "https"
	}
	server := &http.Server{Handler: entrance(c, token, listener.Addr().String(), tlsConfig != nil), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	shown := token
	if os.Getenv(consoleTokenEnv) != "" {
		shown = "…" // who set it knows it
	}
	address := fmt.Sprintf("%s://%s/?token=%s", scheme, reachable(listener.Addr().String()), shown)
	if err := s.print(struct {
		URL string `json:"url"`
	}{address}, func(w io.Writer) { fmt.Fprintf(w, "The console is at %s\n", address) }); err != nil {
		return errors.Join(err, listener.Close())
	}
	sampling, stop := context.WithCancel(ctx)
	defer stop()
	var group sync.WaitGroup
	group.Go(func() { _ = c.Run(sampling) }) // ends with the context
	group.Go(func() {
		<-sampling.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if server.Shutdown(last) != nil {
			_ = server.Close()
		}
	})
	err = server.Serve(listener)
	stop()
	group.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// reachable is an address that a browser can open: that of all interfaces is none.
func reachable(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if name, err := os.Hostname(); err == nil && net.ParseIP(host).IsUnspecified() {
		return net.JoinHostPort(name, port)
	}
	return address
}

func newConsoleOn(db *database, cfg *console.Config) (*console.Console, error) {
	if db.pool != nil {
		return console.New(db.pool, cfg)
	}
	return console.NewSQL(db.sql, cfg)
}

// tls is nil without a certificate.
func (s *serving) tls() (*tls.Config, error) {
	pairs, err := keyPair("--tls", s.cert, s.key)
	if pairs == nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: pairs, NextProtos: []string{"h2", "http/1.1"}}, nil
}

// token returns the environment's token, or a random one where the console is for this machine alone.
func (s *serving) token(secure bool) (string, error) {
	host, _, err := net.SplitHostPort(s.listen)
	if err != nil {
		return "", fmt.Errorf("--listen is %q; write an address and a port, such as 127.0.0.1:7070", s.listen)
	}
	loopback := isLoopback(host)
	token := os.Getenv(consoleTokenEnv)
	switch {
	case token != "" && len(token) < 16:
		return "", errors.New(consoleTokenEnv + " has fewer than 16 characters")
	case !loopback && !secure:
		return "", fmt.Errorf("--listen %s can be reached from other machines: give --tls-cert and --tls-key, or listen on 127.0.0.1", s.listen)
	case !loopback && token == "":
		return "", fmt.Errorf("--listen %s can be reached from other machines: set %s", s.listen, consoleTokenEnv)
	case token == "":
		var random [24]byte
		_, _ = rand.Read(random[:]) // never fails
		token = base64.RawURLEncoding.EncodeToString(random[:])
	}
	return token, nil
}

// entrance lets those in who have the token: in the link, once, then in a cookie. The host that was asked for must be the console's
// own, since a name that a stranger's page lets point here is that page's origin.
func entrance(next http.Handler, token, address string, secure bool) http.Handler {
	sum := func(text string) string {
		h := sha256.Sum256([]byte("endstate console\x00" + text))
		return base64.RawURLEncoding.EncodeToString(h[:])
	}
	want := sum(token)
	name := cookieName(address, secure)
	same := func(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !secure && !local(r.Host, address) {
			http.Error(w, "The console is not at this address.", http.StatusMisdirectedRequest)
			return
		}
		if given := r.URL.Query().Get("token"); given != "" && r.Method == http.MethodGet && same(sum(given), want) {
			http.SetCookie(w, &http.Cookie{Name: name, Value: want, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteStrictMode})
			query := r.URL.Query()
			query.Del("token")
			w.Header().Set("Referrer-Policy", "no-referrer")
			http.Redirect(w, r, (&url.URL{Path: "/" + strings.TrimLeft(r.URL.Path, "/"), RawQuery: query.Encode()}).String(), http.StatusSeeOther)
			return
		}
		bearer, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		cookie, err := r.Cookie(name)
		if bearer != "" && same(sum(bearer), want) || err == nil && same(cookie.Value, want) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="endstate console"`)
		http.Error(w, "Open the link that endstate console printed, with ?token=… in it.", http.StatusUnauthorized)
	})
}

// cookieName has the port, since a browser sends a host's cookies to all of its ports: consoles of two databases would otherwise
// send each other's visitors away.
func cookieName(address string, secure bool) string {
	_, port, _ := net.SplitHostPort(address)
	if secure {
		return "__Host-endstate-" + port
	}
	return "endstate-" + port
}

// local reports whether a request's host names this machine, and the console's port.
func local(host, address string) bool {
	name, port, err := net.SplitHostPort(host)
	_, want, wantErr := net.SplitHostPort(address)
	return err == nil && wantErr == nil && port == want && isLoopback(name)
}

func isLoopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}
