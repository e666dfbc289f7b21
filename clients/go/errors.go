package trustlayer

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"

	"trustlayer/clients/go/trustlayerv1"
)

// Domain is that of every error which the Trust Layer itself says (google.rpc.ErrorInfo).
const Domain = "trustlayer"

var (
	// ErrDenied is what every *DeniedError is, for errors.Is.
	ErrDenied = errors.New("trustlayer: denied")
	// ErrUnavailable is what every *UnavailableError is, for errors.Is.
	ErrUnavailable = errors.New("trustlayer: unavailable")
)

// DeniedError is a definite no.
type DeniedError struct {
	// Reason is for programs. One that this client does not know is a denial all the same.
	Reason trustlayerv1.DenialReason
	// Message is for people; it is not stable.
	Message string
	// Freshness says how fresh the answer is.
	Freshness *trustlayerv1.Freshness
}

// ReasonName names the reason, for example `REVOKED`; one that this client does not know is `NOT_ACTIVE`.
func (e *DeniedError) ReasonName() string {
	name, known := trustlayerv1.DenialReason_name[int32(e.Reason)]
	if !known || e.Reason == trustlayerv1.DenialReason_DENIAL_REASON_UNSPECIFIED {
		return "NOT_ACTIVE"
	}
	return strings.TrimPrefix(name, "DENIAL_REASON_")
}

// Error says the reason and the message.
func (e *DeniedError) Error() string {
	return fmt.Sprintf("trustlayer: denied: %s: %s", e.ReasonName(), e.Message)
}

// Is makes errors.Is(err, ErrDenied) true.
func (e *DeniedError) Is(target error) bool { return target == ErrDenied }

// Failure is what is known of a call that failed. It never holds a session id.
type Failure struct {
	// Code is gRPC's.
	Code codes.Code
	// Reason is a name of trustlayerv1.ErrorReason without its prefix. Empty: no sidecar and no Flowless said so.
	Reason string
	// Message is for people; it is not stable. With a Reason it may be shown to anybody, without one it may
	// name files of this machine.
	Message string
	// RetryAfter says when to try again; zero where nothing was said.
	RetryAfter time.Duration
	// Fields names the fields of the request that are wrong.
	Fields []string
	// RequestID is what to search the logs for; empty where there is none.
	RequestID string
}

// read takes what one of the error's details says.
func (f *Failure) read(detail any) {
	switch detail := detail.(type) {
	case *errdetails.ErrorInfo:
		if detail.GetDomain() == Domain {
			f.Reason = detail.GetReason()
		}
	case *errdetails.RetryInfo:
		f.RetryAfter = detail.GetRetryDelay().AsDuration()
	case *errdetails.BadRequest:
		for _, violation := range detail.GetFieldViolations() {
			f.Fields = append(f.Fields, violation.GetField())
		}
	case *errdetails.RequestInfo:
		f.RequestID = detail.GetRequestId()
	}
}

// wasNotAnswered says whether the call reached no sidecar that could say anything about it.
func (f *Failure) wasNotAnswered() bool { return f.Code == codes.Unavailable && f.Reason == "" }

func (f *Failure) text(what string) string {
	var said strings.Builder
	fmt.Fprintf(&said, "trustlayer: %s: %s", what, f.Code)
	if f.Reason != "" {
		fmt.Fprintf(&said, " %s", f.Reason)
	}
	fmt.Fprintf(&said, ": %s", f.Message)
	if len(f.Fields) > 0 {
		fmt.Fprintf(&said, " (fields: %s)", strings.Join(f.Fields, ", "))
	}
	if f.RequestID != "" {
		fmt.Fprintf(&said, " (request id: %s)", f.RequestID)
	}
	return said.String()
}

// UnavailableError says that it cannot be known: neither yes nor no. After a deadline that passed it is
// context.DeadlineExceeded as well.
type UnavailableError struct{ Failure }

// Error says what is known, without any session id.
func (e *UnavailableError) Error() string { return e.text("unavailable") }

// Is makes errors.Is(err, ErrUnavailable) true.
func (e *UnavailableError) Is(target error) bool {
	return target == ErrUnavailable || target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded
}

// CallError says that a call was refused: its request is wrong, or the answer is no.
type CallError struct{ Failure }

// Error says what is known, without any session id.
func (e *CallError) Error() string { return e.text("call failed") }
