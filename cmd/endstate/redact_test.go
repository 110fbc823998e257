package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// F38: no credential is printed, however the URL is written, and whichever command is given it by mistake.
func TestCredentialsAreNotPrinted(t *testing.T) {
	t.Parallel()
	for _, password := range []string{"hunter2", "hunter2 hunter2", "hunter2@hunter2", "1/hunter2", "hunter2#1", "hunter2?a=hunter2", "100%hunter2", "%68unter2hunter2", `hunter2'"\`, "a,hunter2", "a:hunter2", "[hunter2", "hunter2\x1b[31m"} {
		for _, to := range []string{"nats://u:%s@127.0.0.1:1", "nats://127.0.0.1:1,nats://u:%s@127.0.0.1:1", "tls://%s@127.0.0.1:1", "redis://u:%s@127.0.0.1:1/0", "rediss://:%s@127.0.0.1:1?addr=127.0.0.1:2",
			"https://u:%s@127.0.0.1:1/hook", "http://127.0.0.1:1/%s", "amqp://u:%s@127.0.0.1:1", "u:%s@127.0.0.1:1", "nats:/u:%s@127.0.0.1:1"} {
			r := cli(t, "sqlite:/nowhere/x.db", "relay", "--to", fmt.Sprintf(to, password))
			require.Equal(t, 2, r.status)
			require.NotContains(t, r.stderr, "hunter2", "%q in %q", password, to)
			require.NotContains(t, r.stderr, "\x1b")
		}
		for _, db := range []string{"postgres://u:%s@127.0.0.1:1/x", "postgres://127.0.0.1:1/x?user=u&password=%s", "postgres://127.0.0.1:1/x?sslmode=verify-full&sslpassword=%s", "postgresql://u:%s@127.0.0.1:1,127.0.0.1:2/x",
			"mysql://u:%s@127.0.0.1:1/x", "u:%s@127.0.0.1:1/x", "//u:%s@127.0.0.1:1/x", "postgres:/u:%s@127.0.0.1:1/x", "host=127.0.0.1 password='%s'", "host=127.0.0.1 port=1 Password = %s user=x"} {
			r := cli(t, fmt.Sprintf(db, password), "migrate")
			require.Equal(t, 2, r.status)
			require.NotContains(t, r.stderr, "hunter2", "%q in %q", password, db)
			r = cli(t, "", "migrate", fmt.Sprintf(db, password))
			require.Equal(t, 2, r.status)
			require.NotContains(t, r.stderr, "hunter2", "%q in %q", password, db)
		}
	}
}

func TestPlace(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"nats://u:p@h:4222": "nats://h:4222", "nats://u:p@a,nats://t@b:1,c": "nats://a,nats://b:1,c", "nats://u:a,b@h": "nats://h", "redis://u:a/b#c?d@e@h:1/0": "redis://h:1",
		"https://host/secret/path?x=y": "https://host", "h:1": "h:1", "": "", "postgres:///db?host=/run": "postgres://",
	} {
		require.Equal(t, want, place(text), text)
	}
}

// Whatever the password, and whoever quotes the URL in an error, it isn't in what is printed.
func FuzzRedact(f *testing.F) {
	for _, seed := range []string{"hunter2", "a b c d", "p@ss/wo?rd#1", "100%41%zz", `quo'te"d\x`, "x,y://z@", "\x1b[31m\u202e", "password=x y", "[::1]:80", "….…"} {
		f.Add(seed, "user")
	}
	f.Fuzz(func(t *testing.T, password, user string) {
		const around = `the "first" error of 7: of host.example:4222 nats:// https:// postgres:// redis:// invalid` // what the texts below have in them
		if utf8.RuneCountInString(password) < minSecret+2 || !utf8.ValidString(password) || !utf8.ValidString(user) || strings.Contains(around, password) || strings.Contains(user, password) {
			return
		}
		if _, list, found := strings.Cut(password, ","); found && urlBegins.MatchString(list) {
			return // it can't be told from a list of URLs
		}
		raw := func(format string) string {
			return strings.NewReplacer("USER", user, "PASSWORD", password).Replace(format)
		}
		encoded := url.URL{Scheme: "nats", User: url.UserPassword("user", password), Host: "host.example:4222"}
		for _, text := range []string{
			raw("nats://USER:PASSWORD@host.example:4222"), encoded.String(), raw("redis://:PASSWORD@host.example"), raw("https://user:PASSWORD@host.example/hook"),
		} {
			r := newRedactor([]string{"--to", text})
			again, err := url.Parse(text)
			errs := []string{text, strconv.Quote(text), fmt.Sprintf("%q of 7", text), url.QueryEscape(text)}
			if err != nil {
				errs = append(errs, err.Error())
			} else {
				errs = append(errs, again.String(), (&url.Error{Op: "Post", URL: again.String(), Err: fmt.Errorf("of 7")}).Error())
			}
			if quoted, err := json.Marshal(text); err == nil {
				errs = append(errs, string(quoted))
			}
			for _, said := range errs {
				require.NotContains(t, r.redact("error of "+said+": invalid"), password, "%q in %q", password, said)
			}
			require.NotContains(t, place(text), password)
		}
		// What isn't known to be given is recognized by its form.
		var none *redactor
		require.NotContains(t, none.redact(raw(`the first error of "nats://USER:PASSWORD@host.example:4222": invalid`)), password)
	})
}

// Nothing that steers a terminal is left, in lines and in JSON, and JSON means what it meant.
func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"plain", "\x1b[2J\u009b31m", "\u202edesrever\u202c", "zero\u200bwidth\ufeff", "new\nline\r\t\x00\x7f", "\xff\xfe", "\U000e0041 \U0001f600"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var lines, object strings.Builder
		n, err := escapedText{&lines}.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
		require.Equal(t, strings.Count(text, "\n"), strings.Count(lines.String(), "\n"))
		require.False(t, strings.ContainsFunc(strings.ReplaceAll(lines.String(), "\n", ""), steers), "%q", lines.String())
		require.False(t, strings.ContainsFunc(graphic(text), steers))
		require.NoError(t, json.NewEncoder(escapedJSON{&object}).Encode(text))
		require.False(t, strings.ContainsFunc(strings.TrimSuffix(object.String(), "\n"), steers), "%q", object.String())
		var again string
		require.NoError(t, json.Unmarshal([]byte(object.String()), &again))
		require.Equal(t, strings.ToValidUTF8(text, "\ufffd") == text, again == text)
	})
}
