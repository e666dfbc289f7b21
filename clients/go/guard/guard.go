// Package guard lets requests of net/http and gRPC servers pass only with an active session.
//
// It denies by default: what stands behind a [Guard] needs a session unless the [Policy] of a route says otherwise.
// The handler finds the session by [trustlayer.SessionFrom].
package guard

import (
	"context"
	"errors"
	"log"
	"net/netip"

	"google.golang.org/grpc/codes"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

// Validator is what a guard needs of a *trustlayer.Client.
type Validator interface {
	Validate(context.Context, *trustlayerv1.ValidateRequest) (*trustlayer.Answer, error)
}

// Options say where a request carries what. The zero value takes the session id from the cookie `session_id`, or else
// from `Authorization: Bearer`, and the client IP from the connection.
type Options struct {
	// SessionIDFrom are the places of the session id; the first in which anything was sent counts. None: the default.
	SessionIDFrom []Source
	// TrustedProxies may say in X-Forwarded-For whom they speak for; the client IP is the last address there that
	// is none of theirs. None: the header is not read.
	TrustedProxies []netip.Prefix
	// DeviceFingerprintHeader names the header with the device fingerprint; empty: `X-Device-Fingerprint`.
	DeviceFingerprintHeader string
	// OnRefused writes the answer to an HTTP request that does not pass, for example a redirect to a page to log in.
	// nil: the status code, and JSON with `reason` and `message`.
	OnRefused RefusedHandler
}

// Guard decides about requests. It is safe for use by several goroutines.
type Guard struct {
	validator Validator
	sources   []Source
	proxies   []netip.Prefix
	device    string
	onRefused RefusedHandler
}

// New makes a guard. It fails where the options trust every address.
func New(validator Validator, options Options) (*Guard, error) {
	if validator == nil {
		return nil, errors.New("guard: a validator is needed")
	}
	guard := &Guard{
		validator: validator, sources: options.SessionIDFrom, proxies: options.TrustedProxies,
		device: options.DeviceFingerprintHeader, onRefused: options.OnRefused,
	}
	for _, proxy := range options.TrustedProxies {
		if !proxy.IsValid() || proxy.Bits() == 0 {
			return nil, errors.New("guard: all addresses cannot be trusted proxies")
		}
	}
	for _, source := range options.SessionIDFrom {
		if source == (Source{}) {
			return nil, errors.New("guard: a source of session ids is made by Cookie or Bearer")
		}
	}
	if len(guard.sources) == 0 {
		guard.sources = []Source{Cookie("session_id"), Bearer()}
	}
	if guard.device == "" {
		guard.device = "X-Device-Fingerprint"
	}
	if guard.onRefused == nil {
		guard.onRefused = writeRefusal
	}
	return guard, nil
}

// request is what HTTP and gRPC have in common: header lines by name, and the address of the peer.
type request struct {
	lines func(name string) []string
	peer  string
}

// decide returns the session, or why the request is refused. Both are nil where nobody passes as nobody.
func (g *Guard) decide(ctx context.Context, r request, policy Policy) (*trustlayerv1.Session, *Refusal) {
	if policy.Session == None {
		return nil, nil
	}
	sessionID, found := sessionIDOf(r, g.sources)
	switch {
	case !found && policy.Session == Optional:
		return nil, nil
	case !found:
		return nil, sessionMissing
	}
	if sessionID == notASessionID {
		if policy.Session == Optional {
			return nil, nil
		}
		return nil, malformed
	}
	answer, err := g.validator.Validate(ctx, &trustlayerv1.ValidateRequest{
		SessionId: sessionID, Mode: policy.Mode, Route: policy.Route, Context: g.contextOf(r),
	})
	if denied, is := errors.AsType[*trustlayer.DeniedError](err); is {
		refusal := refusalOf(denied)
		if policy.Session == Optional && refusal.Code == codes.Unauthenticated {
			return nil, nil
		}
		return nil, refusal
	}
	if failed, is := errors.AsType[*trustlayer.CallError](err); is {
		log.Println("guard:", failed)
		return nil, askedWrong
	}
	if err != nil {
		return nil, unavailable(err)
	}
	if !policy.allows(answer.Session.GetUser()) {
		return nil, roleMissing
	}
	return answer.Session, nil
}
