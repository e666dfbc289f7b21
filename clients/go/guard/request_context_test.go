package guard_test

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"trustlayer/clients/go/guard"
)

func TestTheClientIPIsThePeersUnlessATrustedProxySaysOtherwise(t *testing.T) {
	trusting := newGuard(t, guard.Options{TrustedProxies: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32"),
	}})
	trustsNobody := newGuard(t, guard.Options{})
	for _, one := range []struct {
		made      *guard.Guard
		peer      string
		forwarded []string
		want      string
	}{
		{trustsNobody, "10.0.0.1:80", []string{"192.0.2.1"}, "10.0.0.1"},
		{trusting, "192.0.2.9:80", []string{"192.0.2.1"}, "192.0.2.9"},
		{trusting, "10.0.0.1:80", []string{"192.0.2.1"}, "192.0.2.1"},
		{trusting, "[::ffff:10.0.0.1]:80", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{trusting, "[2001:db8::1]:80", []string{"192.0.2.1, 192.0.2.2 , 10.1.1.1"}, "192.0.2.2"},
		{trusting, "10.0.0.1:80", []string{"192.0.2.1", "192.0.2.2,10.1.1.1", "10.2.2.2"}, "192.0.2.2"},
		{trusting, "10.0.0.1:80", []string{"[2001:db9::7]:443"}, "2001:db9::7"},
		{trusting, "10.0.0.1:80", []string{"[2001:db9::7]"}, "2001:db9::7"},
		// Never a guess.
		{trusting, "10.0.0.1:80", nil, ""},
		{trusting, "10.0.0.1:80", []string{"10.2.2.2"}, ""},
		{trusting, "10.0.0.1:80", []string{"192.0.2.1, unknown"}, ""},
		{trusting, "10.0.0.1:80", []string{"192.0.2.1,"}, ""},
		{trusting, "10.0.0.1:80", []string{"192.0.2.1" + strings.Repeat(", 10.1.1.1", 32)}, ""},
		{trusting, "10.0.0.1:80", []string{strings.Repeat("192.0.2.1, ", 31) + "192.0.2.2"}, "192.0.2.2"},
		{trusting, "10.0.0.1:80", []string{strings.Repeat("192.0.2.1, ", 32) + "192.0.2.2"}, ""},
		{trusting, "10.0.0.1:80", []string{strings.Repeat("192.0.2.1, ", 16) + "192.0.2.1", strings.Repeat("192.0.2.1, ", 15) + "192.0.2.2"}, ""},
		{trusting, "@", []string{"192.0.2.1"}, ""},
	} {
		r := &http.Request{RemoteAddr: one.peer, Header: http.Header{"X-Forwarded-For": one.forwarded}}
		if got := one.made.RequestContext(r).GetClientIp(); got != one.want {
			t.Errorf("%s %q: got %q, not %q", one.peer, one.forwarded, got, one.want)
		}
	}
}

func TestWhatWasSentTwiceOrIsTooLongCountsAsNotSent(t *testing.T) {
	made := newGuard(t, guard.Options{DeviceFingerprintHeader: "X-Device"})
	for _, one := range []struct {
		agents []string
		want   string
	}{
		{[]string{"agent"}, "agent"},
		{[]string{"agent", "agent"}, ""},
		{[]string{strings.Repeat("x", 1025)}, ""},
		{[]string{"a\xff"}, "aÿ"},
		{[]string{strings.Repeat("\xe9", 512)}, strings.Repeat("é", 512)},
		{[]string{strings.Repeat("\xe9", 513)}, ""},
		{nil, ""},
	} {
		r := &http.Request{Header: http.Header{"User-Agent": one.agents, "X-Device": {"device"}}}
		if got := made.RequestContext(r); got.GetUserAgent() != one.want || got.GetDeviceFingerprint() != "device" {
			t.Errorf("%q: got %v", one.agents, got)
		}
	}
}
