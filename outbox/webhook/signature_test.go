package webhook

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// secret returns a new secret.
func secret(t *testing.T) Secret {
	t.Helper()
	s, err := ParseSecret(GenerateSecret())
	require.NoError(t, err)
	return s
}

// The example of the convention's own documentation.
func TestSignatureGoldenVectors(t *testing.T) {
	s, err := ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	require.NoError(t, err)
	h := http.Header{}
	body := []byte(`{"test": 2432232314}`)
	signHeaders(h, []Secret{s}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 999), body)
	require.Equal(t, http.Header{
		"Webhook-Id":        {"msg_p5jXN8AQM9LWM0D4loKWxJek"},
		"Webhook-Timestamp": {"1614265330"},
		"Webhook-Signature": {"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
	}, h)
	require.NoError(t, verify(h, []Secret{s}, time.Minute, time.Unix(1614265330, 0), body))
}

func TestVerifyTellsWhatIsWrong(t *testing.T) {
	const tolerance = 5 * time.Minute
	old, current, theirs := secret(t), secret(t), secret(t)
	now, body := time.Unix(1_800_000_000, 0), []byte("body")
	for name, tt := range map[string]struct {
		signers, secrets []Secret
		change           func(http.Header)
		body             string
		later            time.Duration
		want             error
	}{
		"right":                    {},
		"rotation, sender first":   {signers: []Secret{current, old}, secrets: []Secret{old}},
		"rotation, receiver first": {signers: []Secret{old}, secrets: []Secret{current, old}},
		"another's secret":         {signers: []Secret{theirs}, want: ErrWrongSignature},
		"body changed":             {body: "Body", want: ErrWrongSignature},
		"id changed":               {change: func(h http.Header) { h.Set(headerID, "other") }, want: ErrWrongSignature},
		"time changed":             {change: func(h http.Header) { h.Set(headerTimestamp, "1800000001") }, want: ErrWrongSignature},
		"time no number":           {change: func(h http.Header) { h.Set(headerTimestamp, "now") }, want: ErrNoSignature},
		"no id":                    {change: func(h http.Header) { h.Del(headerID) }, want: ErrNoSignature},
		"no time":                  {change: func(h http.Header) { h.Del(headerTimestamp) }, want: ErrNoSignature},
		"no signature":             {change: func(h http.Header) { h.Del(headerSignature) }, want: ErrNoSignature},
		"another version only":     {change: func(h http.Header) { h.Set(headerSignature, "v1a,"+h.Get(headerSignature)[3:]) }, want: ErrWrongSignature},
		"another version, too":     {change: func(h http.Header) { h.Set(headerSignature, "v1a,YQ== v1,%%%  "+h.Get(headerSignature)) }},
		"in a header of its own": {change: func(h http.Header) {
			h[headerSignature] = []string{"v1,YQ==", "", h.Get(headerSignature), "v2,YQ=="}
		}},
		"none of several headers":          {change: func(h http.Header) { h[headerSignature] = []string{"v1,YQ==", "v1,YWI="} }, want: ErrWrongSignature},
		"cut":                              {change: func(h http.Header) { h.Set(headerSignature, h.Get(headerSignature)[:20]) }, want: ErrWrongSignature},
		"old, within the tolerance":        {later: tolerance},
		"too old":                          {later: tolerance + time.Second, want: ErrStale},
		"ahead, within the tolerance":      {later: -tolerance},
		"too far ahead":                    {later: -tolerance - time.Second, want: ErrStale},
		"too old and wrong, which is less": {signers: []Secret{theirs}, later: time.Hour, want: ErrWrongSignature},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.signers == nil {
				tt.signers = []Secret{current}
			}
			if tt.secrets == nil {
				tt.secrets = []Secret{current}
			}
			h := http.Header{}
			signHeaders(h, tt.signers, "id", now, body)
			if tt.change != nil {
				tt.change(h)
			}
			received := body
			if tt.body != "" {
				received = []byte(tt.body)
			}
			err := verify(h, tt.secrets, tolerance, now.Add(tt.later), received)
			if tt.want == nil {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, tt.want)
			}
		})
	}
}

func TestParseSecret(t *testing.T) {
	key := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for text, message := range map[string]string{
		"whsec_" + key(24): "",
		"whsec_" + key(64): "",
		"whsec_" + key(23): "webhook: invalid configuration: a secret has 23 bytes, not 24 to 64",
		"whsec_" + key(65): "webhook: invalid configuration: a secret has 65 bytes, not 24 to 64",
		key(32):            "webhook: invalid configuration: a secret doesn't begin with whsec_",
		"whsec_hunter2":    "webhook: invalid configuration: a secret is not in base64 after whsec_",
		"":                 "webhook: invalid configuration: a secret doesn't begin with whsec_",
	} {
		_, err := ParseSecret(text)
		if message == "" {
			require.NoError(t, err)
		} else {
			require.EqualError(t, err, message)
			require.ErrorIs(t, err, ErrConfig)
		}
	}
	require.NotEqual(t, GenerateSecret(), GenerateSecret())
}

func TestASecretDoesNotShow(t *testing.T) {
	text := GenerateSecret()
	s, err := ParseSecret(text)
	require.NoError(t, err)
	p, err := New("https://example.com/hook", &Config{Secrets: []Secret{s}})
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, holder := range []any{s, &s, []Secret{s}, Config{Secrets: []Secret{s}}, p, *p, Receiver{Secrets: []Secret{s}}, struct{ hidden Secret }{s}} {
			shown := fmt.Sprintf(format, holder)
			require.NotContains(t, shown, strings.TrimPrefix(text, secretPrefix))
			require.NotContains(t, shown, fmt.Sprintf("%x", s.key()))
			require.NotContains(t, shown, strings.Trim(fmt.Sprint(s.key()[:8]), "[]"))
		}
	}
}

// Only what a secret has signed passes, and that passes however the signature is wrapped.
func FuzzVerify(f *testing.F) {
	f.Add("id", "1770091506", "v1,YQ==", "v1,YQ== v1a,x", []byte("{}"))
	f.Add("018f3b2e-0000-7000-8000-000000000001", "9223372036854775807", "", "v1,", []byte{})
	f.Add("", "-1", "v1,%%%", "\x00", []byte{0xff})
	f.Fuzz(func(t *testing.T, id, timestamp, before, after string, body []byte) {
		key := bytes.Repeat([]byte{7}, 32)
		secret := Secret{func() []byte { return key }}
		r := Receiver{Secrets: []Secret{secret}, Tolerance: math.MaxInt64}
		h := http.Header{headerID: {id}, headerTimestamp: {timestamp}, headerSignature: {before, after}}
		require.Error(t, r.Verify(h, body), "nobody has signed it")
		right := signatureVersion + base64.StdEncoding.EncodeToString(secret.sign(id, timestamp, body))
		h[headerSignature] = []string{before, right, after}
		err := r.Verify(h, body)
		if _, parseErr := strconv.ParseInt(timestamp, 10, 64); id == "" || parseErr != nil {
			require.ErrorIs(t, err, ErrNoSignature)
			return
		}
		require.NotErrorIs(t, err, ErrWrongSignature)
		require.ErrorIs(t, r.Verify(h, append(bytes.Clone(body), 'x')), ErrWrongSignature)
		h.Set(headerID, id+"x")
		require.ErrorIs(t, r.Verify(h, body), ErrWrongSignature)
	})
}
