package guard

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

// Refusal says why a request does not pass.
type Refusal struct {
	// Code is codes.Unauthenticated, codes.PermissionDenied or codes.Unavailable; codes.Internal where the app's
	// question is wrong, for example a policy's Route that no rule can be named.
	Code codes.Code
	// Reason is for programs: a denial's, `SESSION_MISSING`, `ROLE_MISSING`, an error's, `UNAVAILABLE`, or `INTERNAL`.
	Reason string
	// Message is for people.
	Message string
	// RetryAfter is when to try again, with codes.Unavailable.
	RetryAfter time.Duration

	challenge string
}

// Status is the HTTP status code.
func (r *Refusal) Status() int {
	switch r.Code {
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Internal:
		return http.StatusInternalServerError
	default:
		return http.StatusServiceUnavailable
	}
}

var (
	sessionMissing = &Refusal{
		Code: codes.Unauthenticated, Reason: "SESSION_MISSING", Message: "no session id was sent", challenge: "Bearer",
	}
	malformed   = refusalOf(&trustlayer.DeniedError{Reason: trustlayerv1.DenialReason_DENIAL_REASON_MALFORMED, Message: "not a session id"})
	askedWrong  = &Refusal{Code: codes.Internal, Reason: "INTERNAL", Message: "internal error"}
	roleMissing = &Refusal{
		Code: codes.PermissionDenied, Reason: "ROLE_MISSING", Message: "the user lacks a role that the route asks for",
	}
)

func refusalOf(denied *trustlayer.DeniedError) *Refusal {
	refusal := &Refusal{Code: codes.Unauthenticated, Reason: denied.ReasonName(), Message: denied.Message}
	switch denied.Reason {
	case trustlayerv1.DenialReason_DENIAL_REASON_ROLE_MISSING, trustlayerv1.DenialReason_DENIAL_REASON_ROUTE_NOT_COVERED:
		refusal.Code = codes.PermissionDenied
	case trustlayerv1.DenialReason_DENIAL_REASON_AUTHENTICATION_TOO_OLD:
		refusal.challenge = `Bearer error="insufficient_user_authentication"` // RFC 9470
	default:
		refusal.challenge = `Bearer error="invalid_token"` // RFC 6750
	}
	return refusal
}

// unavailable refuses because nobody knows, whatever the error is: nothing that is unsure says yes.
func unavailable(err error) *Refusal {
	refusal := &Refusal{
		Code: codes.Unavailable, Reason: "UNAVAILABLE", RetryAfter: time.Second,
		Message: "whether the session is valid cannot be known now",
	}
	var failure trustlayer.Failure
	if failed, is := errors.AsType[*trustlayer.UnavailableError](err); is {
		failure = failed.Failure
	}
	if failure.Reason != "" {
		refusal.Reason = failure.Reason
	}
	if failure.RetryAfter > 0 {
		refusal.RetryAfter = failure.RetryAfter
	}
	return refusal
}

// RefusedHandler answers an HTTP request that does not pass.
type RefusedHandler func(http.ResponseWriter, *http.Request, *Refusal)

// writeRefusal answers as the sidecar's own gate does.
func writeRefusal(w http.ResponseWriter, _ *http.Request, refusal *Refusal) {
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	if refusal.challenge != "" {
		header.Set("WWW-Authenticate", refusal.challenge)
	}
	if refusal.Code == codes.Unavailable {
		header.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(refusal.RetryAfter.Seconds())))))
	}
	w.WriteHeader(refusal.Status())
	json.NewEncoder(w).Encode(map[string]string{"reason": refusal.Reason, "message": refusal.Message})
}
