package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/endstate-go/endstate/outbox"
	"github.com/endstate-go/endstate/outbox/cloudevents"
)

// Config says how to publish. The zero Config, or nil, is ready for use: structured mode, not signed.
type Config struct {
	// Source names where the events come from, as a URI or a path: CloudEvents' source. Default "endstate".
	Source string
	// Secrets sign each request, every one of them, so that a receiver which has only the old or only the new one takes it.
	// Empty: requests aren't signed.
	Secrets []Secret
	// Binary sends in CloudEvents' binary mode, where the signature covers less (see the package's doc).
	Binary bool
	// Header goes with each request, such as Authorization.
	Header http.Header
	// TLS is for https: a private authority (RootCAs), or the client's certificate. Default: the system's authorities.
	TLS *tls.Config
	// Client sends the requests, and has its own settings of TLS; what it does about redirects is overridden, and of an
	// *http.Transport without MaxResponseHeaderBytes a copy is used that has it. Default: one of its own, with the settings
	// of http.DefaultTransport.
	Client *http.Client
	// Concurrency is how many requests of a batch run at a time. Default 16.
	Concurrency int
	// Timeout is that of one request, up to the answer's status. Default 10 seconds.
	Timeout time.Duration
	// Permanent reports whether a status, which isn't 2xx, is one that no repetition fixes. Default: PermanentStatus.
	Permanent func(status int) bool
}

func (c Config) withDefaults() Config {
	if c.Source == "" {
		c.Source = "endstate"
	}
	if c.Concurrency == 0 {
		c.Concurrency = 16
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	if c.Permanent == nil {
		c.Permanent = PermanentStatus
	}
	client := http.Client{}
	if c.Client != nil {
		client = *c.Client
	}
	if client.Transport == nil {
		client.Transport = http.DefaultTransport
	}
	if transport, ok := client.Transport.(*http.Transport); ok && (c.Client == nil || transport.MaxResponseHeaderBytes == 0) {
		transport = transport.Clone()
		transport.MaxResponseHeaderBytes = maxHeader
		if c.Client == nil {
			transport.MaxIdleConnsPerHost, transport.TLSClientConfig = c.Concurrency, c.TLS.Clone()
		}
		client.Transport = transport
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.Client = &client
	return c
}

func (c Config) validate() error {
	if _, err := url.Parse(c.Source); err != nil {
		return fmt.Errorf("%w: Config.Source is not a URI reference", ErrConfig)
	}
	if c.TLS != nil && c.Client != nil {
		return fmt.Errorf("%w: Config.TLS and Config.Client are both set: the client has settings of its own", ErrConfig)
	}
	if c.Concurrency < 0 {
		return fmt.Errorf("%w: Config.Concurrency is %d", ErrConfig, c.Concurrency)
	}
	if c.Timeout < 0 {
		return fmt.Errorf("%w: Config.Timeout is %v", ErrConfig, c.Timeout)
	}
	for name, values := range c.Header {
		canonical := http.CanonicalHeaderKey(name)
		if !headerName.MatchString(name) {
			return fmt.Errorf("%w: Config.Header has the name %q, which HTTP doesn't allow", ErrConfig, name)
		}
		if canonical == contentType || strings.HasPrefix(canonical, attributePrefix) || strings.HasPrefix(canonical, "Webhook-") {
			return fmt.Errorf("%w: Config.Header has %s, which the publisher sets", ErrConfig, canonical)
		}
		for _, value := range values {
			if !validValue(value) {
				return fmt.Errorf("%w: Config.Header has a value for %s that HTTP doesn't allow", ErrConfig, canonical)
			}
		}
	}
	return checkSecrets(c.Secrets)
}

var headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")

// validValue reports whether HTTP allows a header's value. The transport would tell too, but only when it sends.
func validValue(value string) bool {
	return !strings.ContainsFunc(value, func(c rune) bool { return unicode.IsControl(c) && c != '\t' })
}

// Publisher sends each event to one URL, as a POST. It is safe for concurrent use.
type Publisher struct {
	cfg   Config
	url   string
	place string // the URL without what may be secret in it
}

var (
	_ outbox.Publisher = (*Publisher)(nil)
	_ outbox.Addressed = (*Publisher)(nil)
)

// New makes a Publisher of an absolute http or https URL. A user and password in it are sent as basic authentication.
func New(endpoint string, cfg *Config) (*Publisher, error) {
	if cfg == nil {
		cfg = &Config{}
	}
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%w: the URL is not an absolute http or https URL", ErrConfig) // unquoted: it may hold a password
	}
	return &Publisher{cfg: cfg.withDefaults(), url: endpoint, place: u.Scheme + "://" + u.Host}, nil
}

// Destination implements outbox.Addressed: the scheme and the host of Config.URL.
func (p *Publisher) Destination() string { return p.place }

// Close closes the connections that are kept for later requests.
func (p *Publisher) Close() { p.cfg.Client.CloseIdleConnections() }

// Publish implements outbox.Publisher. A panic of the client's transport, or of Config.Permanent, goes on in the caller's
// goroutine.
func (p *Publisher) Publish(ctx context.Context, batch []outbox.Event) []error {
	errs := make([]error, len(batch))
	var next atomic.Int64
	var panicked any
	var once sync.Once
	var senders sync.WaitGroup
	for range min(p.cfg.Concurrency, len(batch)) {
		senders.Go(func() {
			defer func() {
				if v := recover(); v != nil {
					once.Do(func() { panicked = v })
				}
			}()
			for i := next.Add(1) - 1; i < int64(len(batch)); i = next.Add(1) - 1 {
				errs[i] = p.send(ctx, batch[i])
			}
		})
	}
	senders.Wait()
	if panicked != nil {
		panic(panicked)
	}
	for _, err := range errs {
		if err != nil {
			return errs
		}
	}
	return nil
}

func (p *Publisher) send(ctx context.Context, e outbox.Event) error {
	if ctx.Err() != nil {
		return fmt.Errorf("webhook: POST %s: %w", p.place, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Timeout, errTimeout)
	defer cancel()
	req, err := p.request(ctx, e)
	if err != nil {
		return outbox.Permanent(fmt.Errorf("webhook: POST %s: %w", p.place, err))
	}
	resp, err := p.cfg.Client.Do(req)
	if err != nil {
		err = inner(err)
		if ended := ctx.Err(); ended != nil && !errors.Is(err, ended) {
			err = fmt.Errorf("%w: %w", ended, err) // err is the context's cause
		}
		return fmt.Errorf("webhook: POST %s: %w", p.place, short{err})
	}
	// The status has said it all. What is read of the body lets the connection be used again; more than a little of it, in
	// bytes or time, isn't worth that.
	stop := time.AfterFunc(maxDrain, cancel)
	_, _ = io.CopyN(io.Discard, resp.Body, maxDiscard)
	stop.Stop()
	_ = resp.Body.Close()
	if err := p.refused(resp); err != nil {
		return fmt.Errorf("webhook: POST %s: %w", p.place, err)
	}
	return nil
}

var errTimeout = errors.New("no answer within Config.Timeout")

const (
	maxHeader  = 64 << 10 // of an answer, in bytes; net/http's own bound is 10 MiB
	maxDiscard = 64 << 10
	maxDrain   = 250 * time.Millisecond
	maxText    = 1000 // of an error, in bytes
)

// short is an error with a bounded text: net/http quotes what it can't read of an answer.
type short struct{ error }

func (s short) Error() string {
	text := s.error.Error()
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}

func (s short) Unwrap() error { return s.error }

// inner is an error without the URL that net/http puts around it, which may hold a token.
func inner(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// request makes an event's request. Its body is a copy, since a transport may read it even after it has returned.
func (p *Publisher) request(ctx context.Context, e outbox.Event) (*http.Request, error) {
	header := p.cfg.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", "endstate")
	}
	var body []byte
	if p.cfg.Binary {
		attributes, err := cloudevents.Attributes(e, p.cfg.Source)
		if err != nil {
			return nil, err
		}
		for _, a := range attributes {
			if a.Name == cloudevents.DataContentType {
				if !validValue(a.Value) {
					return nil, errors.New("the event's ContentType is one that HTTP doesn't allow")
				}
				header.Set(contentType, a.Value)
			} else {
				header.Set(attributePrefix+a.Name, cloudevents.Escape(a.Value))
			}
		}
		body = bytes.Clone(e.Payload)
	} else {
		header.Set(contentType, cloudevents.StructuredType)
		var err error
		if body, err = cloudevents.Structured(e, p.cfg.Source); err != nil {
			return nil, err
		}
	}
	if len(p.cfg.Secrets) > 0 {
		signHeaders(header, p.cfg.Secrets, e.ID.String(), time.Now(), body)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header
	return req, nil
}
