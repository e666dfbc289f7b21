package guard

import (
	"strings"
)

// mostSessionIDBytes is more than any session id has; what is longer is none.
const mostSessionIDBytes = 128

// notASessionID stands for what was sent in the place of a session id and is none: it is MALFORMED, and no sidecar asked.
const notASessionID = ""

// Source is a place of session ids. Make one by Cookie or Bearer.
type Source struct {
	cookie string
	bearer bool
}

// Cookie is the cookie of this name.
func Cookie(name string) Source { return Source{cookie: name} }

// Bearer is the header `Authorization: Bearer …`.
func Bearer() Source { return Source{bearer: true} }

// values returns everything that was sent in this place.
func (s Source) values(r request) []string {
	if s.bearer {
		return bearersIn(r.lines("Authorization"))
	}
	return cookiesNamed(s.cookie, r.lines("Cookie"))
}

// sessionIDOf takes the session id from the first place in which anything was sent. Two values in one place are no
// session id: a site beside this one can set a cookie of the same name, and who reads it next might take the other one.
func sessionIDOf(r request, sources []Source) (sessionID string, found bool) {
	for _, source := range sources {
		values := source.values(r)
		if len(values) == 0 {
			continue
		}
		for _, other := range values[1:] {
			if other != values[0] {
				return notASessionID, true
			}
		}
		text := textOf(values[0])
		if len(text) > mostSessionIDBytes {
			return notASessionID, true
		}
		return text, true
	}
	return "", false
}

// cookiesNamed reads cookies as RFC 6265 has a server read them. net/http passes over a cookie whose value it does not
// like, which then would count as not sent.
func cookiesNamed(name string, lines []string) []string {
	var found []string
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, equals := strings.Cut(strings.Trim(pair, " \t"), "=")
			if equals && strings.Trim(key, " \t") == name {
				found = append(found, strings.Trim(value, " \t\""))
			}
		}
	}
	return found
}

// isToken tells a token from what is none: it is visible ASCII.
func isToken(value string) bool {
	return value != "" && !strings.ContainsFunc(value, func(r rune) bool { return r < '!' || r > '~' })
}

func bearersIn(lines []string) []string {
	var found []string
	for _, line := range lines {
		scheme, value, _ := strings.Cut(strings.Trim(line, " \t"), " ")
		value = strings.TrimLeft(value, " ")
		if strings.EqualFold(scheme, "bearer") && isToken(value) {
			found = append(found, value)
		}
	}
	return found
}
