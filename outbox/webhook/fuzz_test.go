package webhook

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whatever a receiver answers, the pause is between none and the longest one; seconds are seconds, and a date is the same pause by
// whichever clock it is given.
func FuzzRetryAfter(f *testing.F) {
	f.Add("120", "", int64(90))
	f.Add(" Fri, 13 Feb 2026 12:00:30 GMT", "Fri, 13 Feb 2026 12:00:00 GMT", int64(-1))
	f.Add("99999999999999999999", "Friday, 13-Feb-26 12:00:00 GMT", int64(3600))
	now := time.Date(2026, 2, 13, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, value, date string, seconds int64) {
		got := retryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, now)
		require.GreaterOrEqual(t, got, time.Duration(0))
		require.LessOrEqual(t, got, maxRetryAfter)
		if got > 0 {
			again := strconv.FormatInt(int64(got/time.Second), 10)
			require.Equal(t, got, retryAfter(http.Header{"Retry-After": {again}}, now), "%q", value)
		}
		want := min(max(time.Duration(seconds), 0), maxRetryAfter/time.Second) * time.Second
		if seconds >= 0 {
			require.Equal(t, want, retryAfter(http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}, now))
		}
		if at := now.Add(time.Duration(seconds%1e9) * time.Second); seconds == seconds%1e9 {
			theirs, err := http.ParseTime(date)
			h := http.Header{"Retry-After": {at.Format(http.TimeFormat)}}
			require.Equal(t, want, retryAfter(h, now))
			if err == nil && theirs.Year() > 0 && theirs.Year() < 9000 {
				h = http.Header{"Date": {theirs.UTC().Format(http.TimeFormat)}, "Retry-After": {theirs.UTC().Add(at.Sub(now)).Format(http.TimeFormat)}}
				require.Equal(t, want, retryAfter(h, now.Add(time.Hour)), "by their clock")
			}
		}
	})
}

// A secret is taken if it has a key of the right length, as it is written by whoever writes it, and shows in nothing that is printed.
func FuzzParseSecret(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", []byte("a key of twenty-four byte"))
	f.Add("whsec_", []byte{})
	f.Add("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", []byte(strings.Repeat("k", 65)))
	f.Fuzz(func(t *testing.T, text string, key []byte) {
		s, err := ParseSecret(secretPrefix + base64.StdEncoding.EncodeToString(key))
		require.Equal(t, len(key) >= minKey && len(key) <= maxKey, err == nil, "%v", err)
		if err == nil {
			require.Equal(t, key, s.key())
		}
		s, err = ParseSecret(text)
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			require.Nil(t, s.key)
			if rest, ok := strings.CutPrefix(text, secretPrefix); !ok && len(text) > 8 || len(rest) > 8 {
				require.NotContains(t, err.Error(), text)
			}
			return
		}
		again, err := ParseSecret(secretPrefix + base64.StdEncoding.EncodeToString(s.key()))
		require.NoError(t, err)
		require.Equal(t, s.key(), again.key())
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			said := fmt.Sprintf(verb, s)
			require.NotContains(t, said, strings.TrimPrefix(text, secretPrefix))
			require.NotContains(t, said, string(s.key()))
			require.NotContains(t, said, fmt.Sprintf("%x", s.key()))
		}
	})
}
