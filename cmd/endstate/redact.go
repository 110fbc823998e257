package main

import (
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// redactor hides the credentials of what a command was given, whoever prints them: drivers quote a URL in their errors, whole or
// in pieces, as it was written or decoded. It also hides what looks like credentials in any text.
type redactor struct {
	pairs []string // what is hidden and what stands for it, the longest first
}

// newRedactor looks for credentials in the arguments and in the environment's variables that hold them.
func newRedactor(args []string) *redactor {
	given := slices.Clone(args)
	for _, arg := range args {
		if _, value, found := strings.Cut(arg, "="); found {
			given = append(given, value)
		}
	}
	for _, name := range []string{dbEnv, toEnv, listenEnv, secretsEnv} {
		given = append(given, os.Getenv(name))
	}
	stands := map[string]string{}
	hide := func(secret, by string) {
		if utf8.RuneCountInString(secret) < minSecret {
			return
		}
		quoted := strconv.Quote(secret)
		for _, form := range []string{secret, quoted[1 : len(quoted)-1]} {
			if _, known := stands[form]; !known {
				stands[form] = by
			}
		}
	}
	for _, text := range given {
		if scheme, _, found := strings.Cut(text, "://"); found && scheme != "sqlite" || schemeless(text) {
			hide(text, place(text))
		}
		for _, secret := range credentials(text) {
			hide(secret, "…")
		}
	}
	for _, secret := range append(strings.Fields(os.Getenv(secretsEnv)), os.Getenv("PGPASSWORD"), os.Getenv(consoleTokenEnv)) {
		hide(secret, "…")
	}
	secrets := make([]string, 0, len(stands))
	for secret := range stands {
		secrets = append(secrets, secret)
	}
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	r := &redactor{}
	for _, secret := range secrets {
		r.pairs = append(r.pairs, secret, stands[secret])
	}
	return r
}

// minSecret is the shortest text that is hidden wherever it stands: shorter ones are in too many words.
const minSecret = 3

// secretWord is in the names of parameters whose values are secret.
const secretWord = `password|passwd|passphrase|passcode|pwd|secret|token|credential|signature|apikey|api_key|api-key|auth`

var (
	userInfo     = regexp.MustCompile(`(?s)://.*@`)
	queryValue   = regexp.MustCompile(`(?i)([?&;][\w.%-]*(?:` + secretWord + `)[\w.%-]*=)[^&\n]*`)
	keywordValue = regexp.MustCompile(`(?is)((?:` + secretWord + `)\w*\s*=\s*)('(?:\\.|[^'\\])*'?|"(?:\\.|[^"\\])*"?|(?:\\.|[^\s\\&])*)`)
	secretName   = regexp.MustCompile(`(?i)` + secretWord)
)

// redact is the text without credentials.
func (r *redactor) redact(text string) string {
	if r != nil {
		// One after the other, as a short one may be what is left of a longer one.
		for i := 0; i < len(r.pairs); i += 2 {
			text = strings.ReplaceAll(text, r.pairs[i], r.pairs[i+1])
		}
	}
	text = userInfo.ReplaceAllString(text, "://…@")
	text = queryValue.ReplaceAllString(text, "${1}…")
	return keywordValue.ReplaceAllString(text, "${1}…")
}

// place is how a URL, or a list of them, is shown: its scheme and host. Whatever stands before its last @ may be a part of the
// password, since people write URLs that have @, /, ? and # in that.
func place(list string) string {
	var all []string
	for _, one := range splitList(list) {
		scheme, rest, found := strings.Cut(strings.TrimSpace(one), "://")
		if !found {
			rest, scheme = scheme, ""
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			rest = rest[:end]
		}
		if found {
			rest = scheme + "://" + rest
		}
		all = append(all, rest)
	}
	return strings.Join(all, ",")
}

// schemeless reports whether text looks like a URL with a password whose scheme was forgotten, or written wrong.
func schemeless(text string) bool {
	before, _, found := strings.Cut(text, "@")
	return found && strings.Contains(before, ":") && !strings.Contains(text, "://") && !strings.HasPrefix(text, "sqlite:")
}

// urlBegins is how one begins that may be given to the command.
var urlBegins = regexp.MustCompile(`(?i)^\s*(?:nats|tls|wss?|kafkas?|rediss?|https?|postgres(?:ql)?)://`)

// splitList splits a list of URLs. A comma before an @ may be a part of a password, unless a URL begins there.
func splitList(list string) (all []string) {
	for one := range strings.SplitSeq(list, ",") {
		if last := len(all) - 1; last >= 0 && !urlBegins.MatchString(one) && strings.Contains(one, "@") {
			all[last] += "," + one
			continue
		}
		all = append(all, one)
	}
	return all
}

// credentials are the parts of a URL, or of a text of key=value pairs, that nobody may see, in the forms in which they may be
// printed, and the pieces into which a parser may break them.
func credentials(text string) (secrets []string) {
	add := func(secret string) {
		for _, form := range []string{secret, unescaped(secret, url.PathUnescape), unescaped(secret, url.QueryUnescape)} {
			secrets = append(secrets, form, url.PathEscape(form), url.QueryEscape(form), strings.TrimPrefix(url.UserPassword("", form).String(), ":"))
			secrets = append(secrets, strings.FieldsFunc(form, func(r rune) bool { return strings.ContainsRune("/?#@:,&=%[] \t\n", r) })...)
		}
	}
	for _, match := range keywordValue.FindAllStringSubmatch(text, -1) {
		value := match[2]
		if len(value) > 1 && (value[0] == '\'' || value[0] == '"') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		add(value)
		add(strings.NewReplacer(`\\`, `\`, `\`, "").Replace(value))
	}
	for _, one := range splitList(text) {
		scheme, rest, found := strings.Cut(strings.TrimSpace(one), "://")
		if !found {
			if !schemeless(one) {
				continue
			}
			scheme, rest = "", strings.TrimSpace(one)
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			secrets = append(secrets, rest[:at+1])
			user, password, both := strings.Cut(rest[:at], ":")
			switch {
			case both:
				add(password)
			case scheme != "postgres" && scheme != "postgresql": // a token
				add(user)
			}
			rest = rest[at+1:]
		}
		if _, query, found := strings.Cut(rest, "?"); found {
			for pair := range strings.SplitSeq(query, "&") {
				if name, value, found := strings.Cut(pair, "="); found && (secretName.MatchString(name) || strings.HasPrefix(scheme, "http")) {
					add(value)
				}
			}
		}
		if end := strings.IndexAny(rest, "/?#"); end >= 0 && strings.HasPrefix(scheme, "http") && len(rest[end:]) > minSecret {
			secrets = append(secrets, rest[end:], url.PathEscape(rest[end:])) // those of webhooks often are secret
			if u, err := url.Parse(one); err == nil {
				secrets = append(secrets, u.RequestURI(), u.Path)
			}
		}
	}
	return secrets
}

func unescaped(text string, unescape func(string) (string, error)) string {
	if plain, err := unescape(text); err == nil {
		return plain
	}
	return text
}

// urlFault says why a URL can't be taken for what it seems to be, without a part of it; empty if there is no reason.
func urlFault(text string) string {
	const write = "; in names and passwords write %20 for a blank, %23 for #, %25 for %, %2F for /, %3A for :, %3F for ? and %40 for @"
	for _, one := range splitList(text) {
		_, rest, _ := strings.Cut(one, "://")
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			if strings.Contains(rest[end:], "@") {
				return "there is an @ behind a /, ? or #" + write
			}
			rest = rest[:end]
		}
		if strings.ContainsFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
			return "there is a blank in it" + write
		}
	}
	return ""
}
