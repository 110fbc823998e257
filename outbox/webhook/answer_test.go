package webhook

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/endstate-go/endstate/outbox"
)

// An answer without end is neither kept nor waited for: the status has said it all.
func TestAnAnswerWithoutEnd(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"that never stops": func(w http.ResponseWriter, _ *http.Request) {
			for chunk := make([]byte, 32<<10); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"that hangs": func(w http.ResponseWriter, req *http.Request) {
			_, _ = io.Copy(io.Discard, req.Body)
			_, _ = io.WriteString(w, "so far")
			_ = http.NewResponseController(w).Flush()
			<-req.Context().Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := serve(t, &Config{Timeout: time.Hour}, answer)
			done := make(chan []error, 1)
			go func() { done <- p.Publish(t.Context(), []outbox.Event{event()}) }()
			select {
			case errs := <-done:
				require.Empty(t, errs)
			case <-time.After(time.Minute):
				t.Fatal("Publish waits for the end of the answer")
			}
		})
	}
}

// A short answer is read to its end, so that the connection serves the next event.
func TestAShortAnswerKeepsTheConnection(t *testing.T) {
	remotes := make(chan string, 2)
	p, _ := serve(t, nil, func(w http.ResponseWriter, req *http.Request) {
		remotes <- req.RemoteAddr
		_, _ = io.WriteString(w, strings.Repeat("thanks", 1000))
	})
	for range 2 {
		require.Empty(t, p.Publish(t.Context(), []outbox.Event{event()}))
	}
	require.Equal(t, <-remotes, <-remotes)
}

// rawServer answers each request with bytes of the test's own.
func rawServer(t *testing.T, answer func(conn net.Conn)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := make(chan struct{})
	go func() {
		defer close(server)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if req, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				answer(conn)
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-server })
	return "http://" + listener.Addr().String()
}

// endless writes until the client hangs up, and says how many bytes the client took.
func endless(conn net.Conn, first, repeated string) (taken int) {
	_ = conn.SetWriteDeadline(time.Now().Add(time.Minute))
	for n, err := io.WriteString(conn, first); err == nil; n, err = io.WriteString(conn, repeated) {
		taken += n
	}
	return taken
}

// An answer's header is bounded, by whichever client: net/http alone takes 10 MiB, and as much for each of several 1xx answers.
func TestAnAnswersHeaderIsBounded(t *testing.T) {
	for name, cfg := range map[string]*Config{
		"by default":                nil,
		"with a client":             {Client: &http.Client{}},
		"with a client's transport": {Client: &http.Client{Transport: &http.Transport{}}},
	} {
		t.Run(name, func(t *testing.T) {
			taken := make(chan int, 1)
			url := rawServer(t, func(conn net.Conn) {
				taken <- endless(conn, "HTTP/1.1 200 OK\r\n", "X-Long: "+strings.Repeat("x", 8<<10)+"\r\n")
			})
			p, err := New(url, cfg)
			require.NoError(t, err)
			t.Cleanup(p.Close)
			errs := p.Publish(t.Context(), []outbox.Event{event()})
			require.ErrorContains(t, errs[0], "server response headers exceeded")
			require.NotErrorIs(t, errs[0], outbox.ErrPermanent)
			require.Less(t, <-taken, 8<<20, "more than the bound and what sockets buffer")
		})
	}
	p, err := New("https://example.com", &Config{Client: &http.Client{Transport: &http.Transport{MaxResponseHeaderBytes: 5}}})
	require.NoError(t, err)
	require.EqualValues(t, 5, p.cfg.Client.Transport.(*http.Transport).MaxResponseHeaderBytes, "the caller's own bound")
}

// The error is stored with the event: what net/http quotes of a strange answer is cut.
func TestAStrangeAnswerIsQuotedInPart(t *testing.T) {
	url := rawServer(t, func(conn net.Conn) { _, _ = fmt.Fprintf(conn, "%s\r\n\r\n", strings.Repeat("é", 20_000)) })
	p, err := New(url, nil)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	errs := p.Publish(t.Context(), []outbox.Event{event()})
	require.ErrorContains(t, errs[0], "malformed HTTP")
	require.Less(t, len(errs[0].Error()), 1200)
}
