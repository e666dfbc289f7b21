package guard

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"trustlayer/clients/go/trustlayerv1"
)

const (
	mostDeviceFingerprintBytes = 512
	mostUserAgentBytes         = 1024
	// mostForwarded addresses are in X-Forwarded-For, in all its lines together; where there are more there is no
	// client IP.
	mostForwarded = 32
)

// RequestContext is the context of an HTTP request, as the guard sees it: what an app hands to Login, so that later
// requests are compared with the same.
func (g *Guard) RequestContext(r *http.Request) *trustlayerv1.RequestContext {
	return g.contextOf(httpRequest(r))
}

func (g *Guard) contextOf(r request) *trustlayerv1.RequestContext {
	return &trustlayerv1.RequestContext{
		ClientIp:          g.clientIP(r),
		DeviceFingerprint: only(r.lines(g.device), mostDeviceFingerprintBytes),
		UserAgent:         only(r.lines("User-Agent"), mostUserAgentBytes),
	}
}

// clientIP is the peer's address, or what trusted proxies say. It is empty where no address can be believed, which the
// sidecar denies: never a guess.
func (g *Guard) clientIP(r request) string {
	peer := addressOf(r.peer)
	if !peer.IsValid() || !g.isTrusted(peer) {
		return textOfAddress(peer)
	}
	lines := strings.Join(r.lines("X-Forwarded-For"), ",")
	if strings.Count(lines, ",") >= mostForwarded {
		return ""
	}
	for _, element := range slices.Backward(strings.Split(lines, ",")) {
		address := addressOf(strings.Trim(element, " \t"))
		if !address.IsValid() || !g.isTrusted(address) {
			return textOfAddress(address)
		}
	}
	return ""
}

func (g *Guard) isTrusted(address netip.Addr) bool {
	return slices.ContainsFunc(g.proxies, func(proxy netip.Prefix) bool { return proxy.Contains(address) })
}

// addressOf reads an IP address with or without a port; what is none is not valid.
func addressOf(text string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(text); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		text = text[1 : len(text)-1]
	}
	address, _ := netip.ParseAddr(text)
	return address.Unmap().WithZone("")
}

func textOfAddress(address netip.Addr) string {
	if !address.IsValid() {
		return ""
	}
	return address.String()
}

// only returns the one value. What was sent twice, or is too long to be compared, counts as not sent.
func only(lines []string, most int) string {
	if len(lines) != 1 {
		return ""
	}
	// The length is that of the text, which is longer than the header where that is not ASCII.
	text := textOf(lines[0])
	if len(text) > most {
		return ""
	}
	return text
}

// textOf reads bytes of a header as text, one character per byte, as the sidecar's own gate does: not all that is sent
// is UTF-8.
func textOf(value string) string {
	characters := make([]rune, len(value))
	for i := range len(value) {
		characters[i] = rune(value[i])
	}
	return string(characters)
}
