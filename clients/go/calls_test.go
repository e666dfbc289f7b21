package trustlayer_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/trustlayerv1"
)

// scripted is a sidecar that says what no real one of this version does, and counts.
type scripted struct {
	trustlayerv1.UnimplementedValidatorServiceServer
	trustlayerv1.UnimplementedSessionServiceServer

	mutex     sync.Mutex
	calls     []time.Time
	deadlines []time.Duration
	validate  func(call int) (*trustlayerv1.ValidateResponse, error)
}

func (s *scripted) Validate(ctx context.Context, _ *trustlayerv1.ValidateRequest) (*trustlayerv1.ValidateResponse, error) {
	return s.validate(s.count(ctx))
}

func (s *scripted) Login(ctx context.Context, _ *trustlayerv1.LoginRequest) (*trustlayerv1.LoginResponse, error) {
	s.count(ctx)
	return nil, status.Error(codes.Unavailable, "nobody is there")
}

func (s *scripted) ListSessions(ctx context.Context, _ *trustlayerv1.ListSessionsRequest) (*trustlayerv1.ListSessionsResponse, error) {
	if s.count(ctx) == 1 {
		return nil, status.Error(codes.Unavailable, "nobody is there")
	}
	return &trustlayerv1.ListSessionsResponse{}, nil
}

func (s *scripted) count(ctx context.Context) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.calls = append(s.calls, time.Now())
	deadline, _ := ctx.Deadline()
	s.deadlines = append(s.deadlines, time.Until(deadline))
	return len(s.calls)
}

// start serves the script on a socket, and returns a client of it. The name of the socket is one that gRPC's own
// `unix:` would decode.
func (s *scripted) start(t *testing.T) *trustlayer.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s%20")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	trustlayerv1.RegisterValidatorServiceServer(server, s)
	trustlayerv1.RegisterSessionServiceServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return newClient(t, socket)
}

func failure(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	made, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return made.Err()
}

func active() *trustlayerv1.ValidateResponse { return sessionOf("sh_1", &trustlayerv1.User{Id: "u_1"}) }

func sessionOf(handle string, user *trustlayerv1.User) *trustlayerv1.ValidateResponse {
	return &trustlayerv1.ValidateResponse{Result: &trustlayerv1.ValidateResponse_Session{
		Session: &trustlayerv1.Session{Handle: handle, User: user},
	}}
}

func TestAValidationThatNoSidecarAnsweredIsMadeAgainAfterTheDelays(t *testing.T) {
	server := &scripted{validate: func(call int) (*trustlayerv1.ValidateResponse, error) {
		if call < 4 {
			return nil, failure(codes.Unavailable, "nobody is there", &errdetails.ErrorInfo{Reason: "DOWN", Domain: "mesh.example"})
		}
		return active(), nil
	}}
	answer, err := server.start(t).Validate(t.Context(), &trustlayerv1.ValidateRequest{})
	if err != nil || answer.Session.GetHandle() != "sh_1" {
		t.Fatalf("got %v, %v", answer, err)
	}
	for i, least := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 180 * time.Millisecond} {
		if gap := server.calls[i+1].Sub(server.calls[i]); gap < least-time.Millisecond {
			t.Errorf("call %d came after %v", i+1, gap)
		}
	}
}

func TestAValidationIsMadeFourTimesAtMost(t *testing.T) {
	server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) {
		return nil, status.Error(codes.Unavailable, "nobody is there")
	}}
	_, err := server.start(t).Validate(t.Context(), &trustlayerv1.ValidateRequest{})
	if !errors.Is(err, trustlayer.ErrUnavailable) || len(server.calls) != 4 {
		t.Errorf("%d calls, then %v", len(server.calls), err)
	}
}

func TestNothingIsMadeAgainPastTheDeadline(t *testing.T) {
	server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) {
		return nil, status.Error(codes.Unavailable, "nobody is there")
	}}
	client := server.start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 170*time.Millisecond)
	defer cancel()
	_, err := client.Validate(ctx, &trustlayerv1.ValidateRequest{})
	if !errors.Is(err, trustlayer.ErrUnavailable) || len(server.calls) > 3 || ctx.Err() != nil {
		t.Errorf("%d calls, then %v, %v", len(server.calls), err, ctx.Err())
	}
}

func TestAnUnavailableThatIsAnAnswerIsNotMadeAgain(t *testing.T) {
	server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) {
		return nil, failure(codes.Unavailable, "Flowless is away",
			&errdetails.ErrorInfo{Reason: "UPSTREAM_UNAVAILABLE", Domain: trustlayer.Domain},
			&errdetails.RetryInfo{RetryDelay: durationpb.New(250 * time.Millisecond)},
			&errdetails.RequestInfo{RequestId: "r-1"},
			protoadapt.MessageV1Of(structpb.NewStringValue("a detail of a newer sidecar")))
	}}
	_, err := server.start(t).Validate(t.Context(), &trustlayerv1.ValidateRequest{})
	unavailable, is := errors.AsType[*trustlayer.UnavailableError](err)
	if !is || len(server.calls) != 1 {
		t.Fatalf("%d calls, then %v", len(server.calls), err)
	}
	if unavailable.Reason != "UPSTREAM_UNAVAILABLE" || unavailable.RetryAfter != 250*time.Millisecond || unavailable.RequestID != "r-1" {
		t.Errorf("got %+v", unavailable)
	}
}

func TestALoginIsNeverMadeAgainAndAListIs(t *testing.T) {
	server := &scripted{}
	_, err := server.start(t).Sessions().Login(t.Context(), &trustlayerv1.LoginRequest{})
	if !errors.Is(err, trustlayer.ErrUnavailable) || len(server.calls) != 1 {
		t.Errorf("%d calls, then %v", len(server.calls), err)
	}
	server = &scripted{}
	_, err = server.start(t).Sessions().ListSessions(t.Context(), &trustlayerv1.ListSessionsRequest{})
	if err != nil || len(server.calls) != 2 {
		t.Errorf("%d calls, then %v", len(server.calls), err)
	}
}

func TestEveryCallHasADeadlineAndNoCallerGivesAValidationMore(t *testing.T) {
	server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) { return active(), nil }}
	client := server.start(t)
	client.Validate(t.Context(), &trustlayerv1.ValidateRequest{})
	client.Sessions().Login(t.Context(), &trustlayerv1.LoginRequest{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	client.Validate(ctx, &trustlayerv1.ValidateRequest{})
	client.Sessions().Login(ctx, &trustlayerv1.LoginRequest{})
	short, end := context.WithTimeout(t.Context(), time.Second)
	defer end()
	client.Validate(short, &trustlayerv1.ValidateRequest{})
	for i, want := range []time.Duration{
		trustlayer.DefaultValidateTimeout, trustlayer.DefaultCallTimeout, trustlayer.DefaultValidateTimeout, time.Hour, time.Second,
	} {
		if got := server.deadlines[i]; got > want || got < want-time.Second {
			t.Errorf("call %d had %v, not %v", i, got, want)
		}
	}
}

func TestWhatIsNoYesOfANewerSidecarIsNoYes(t *testing.T) {
	answers := map[string]struct {
		answer *trustlayerv1.ValidateResponse
		want   error
	}{
		"neither a session nor a denial": {&trustlayerv1.ValidateResponse{}, trustlayer.ErrUnavailable},
		"an empty session":               {sessionOf("", nil), trustlayer.ErrUnavailable},
		"a session without a handle":     {sessionOf("", &trustlayerv1.User{Id: "u_1"}), trustlayer.ErrUnavailable},
		"a session without a user":       {sessionOf("sh_1", nil), trustlayer.ErrUnavailable},
		"a session of a user without id": {sessionOf("sh_1", &trustlayerv1.User{Name: "Ada"}), trustlayer.ErrUnavailable},
		"a reason that nobody knows yet": {&trustlayerv1.ValidateResponse{Result: &trustlayerv1.ValidateResponse_Denial{
			Denial: &trustlayerv1.Denial{Reason: 4711},
		}}, trustlayer.ErrDenied},
	}
	for name, one := range answers {
		server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) { return one.answer, nil }}
		_, err := server.start(t).Validate(t.Context(), &trustlayerv1.ValidateRequest{})
		if !errors.Is(err, one.want) {
			t.Errorf("%s: got %v", name, err)
		}
		if denied, is := errors.AsType[*trustlayer.DeniedError](err); is && denied.ReasonName() != "NOT_ACTIVE" {
			t.Errorf("%s: called %s", name, denied.ReasonName())
		}
	}
}

func TestAnyOtherFailureOfAValidationIsUnavailableAndNotMadeAgain(t *testing.T) {
	for _, code := range []codes.Code{
		codes.Internal, codes.Unimplemented, codes.PermissionDenied, codes.Unknown, codes.Canceled, codes.InvalidArgument,
	} {
		server := &scripted{validate: func(int) (*trustlayerv1.ValidateResponse, error) { return nil, status.Error(code, "no") }}
		_, err := server.start(t).Validate(t.Context(), &trustlayerv1.ValidateRequest{})
		unavailable, is := errors.AsType[*trustlayer.UnavailableError](err)
		if !is || unavailable.Code != code || len(server.calls) != 1 {
			t.Errorf("%v: %d calls, then %v", code, len(server.calls), err)
		}
	}
}
