package guard_test

import (
	"context"
	"net"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/guard"
)

// named is a service that answers only to those whose names it knows.
type named struct{ *health.Server }

func (s *named) Check(ctx context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if name := trustlayer.SessionFrom(ctx).GetUser().GetName(); name != "Ada" {
		return nil, status.Error(codes.NotFound, "nobody: "+name)
	}
	return s.Server.Check(ctx, r)
}

func (s *named) Watch(r *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	if name := trustlayer.SessionFrom(stream.Context()).GetUser().GetName(); name != "Ada" {
		return status.Error(codes.NotFound, "nobody: "+name)
	}
	return s.Server.Watch(r, stream)
}

func dial(t *testing.T, policies guard.Policies) healthv1.HealthClient {
	t.Helper()
	made := newGuard(t, guard.Options{})
	server := grpc.NewServer(
		grpc.UnaryInterceptor(made.UnaryInterceptor(policies)), grpc.StreamInterceptor(made.StreamInterceptor(policies)))
	healthv1.RegisterHealthServer(server, &named{health.NewServer()})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return healthv1.NewHealthClient(conn)
}

func check(ctx context.Context, server healthv1.HealthClient, sent ...string) (codes.Code, string) {
	var trailer metadata.MD
	_, err := server.Check(metadata.AppendToOutgoingContext(ctx, sent...), &healthv1.HealthCheckRequest{}, grpc.Trailer(&trailer))
	return codeAndReason(err, trailer)
}

func watch(ctx context.Context, server healthv1.HealthClient, sent ...string) (codes.Code, string) {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, sent...))
	defer cancel()
	stream, err := server.Watch(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return status.Code(err), ""
	}
	if _, err = stream.Recv(); err == nil {
		return codes.OK, ""
	}
	return codeAndReason(err, stream.Trailer())
}

// codeAndReason finds no reason where the error could be taken for one that a sidecar says.
func codeAndReason(err error, trailer metadata.MD) (codes.Code, string) {
	for _, detail := range status.Convert(err).Details() {
		if _, is := detail.(*errdetails.ErrorInfo); is {
			return status.Code(err), "an ErrorInfo"
		}
	}
	return status.Code(err), strings.Join(trailer.Get("trustlayer-reason"), " and ")
}

func TestAGrpcServerLetsSessionsPassAndNothingElse(t *testing.T) {
	for name, call := range map[string]func(context.Context, healthv1.HealthClient, ...string) (codes.Code, string){
		"unary": check, "stream": watch,
	} {
		guarded := dial(t, nil)
		if code, reason := call(t.Context(), guarded); code != codes.Unauthenticated || reason != "SESSION_MISSING" {
			t.Errorf("%s: got %v %s", name, code, reason)
		}
		if code, reason := call(t.Context(), guarded, "authorization", "Bearer x"); code != codes.Unauthenticated || reason != "MALFORMED" {
			t.Errorf("%s: got %v %s", name, code, reason)
		}
		if code, reason := call(t.Context(), guarded, "authorization", "Bearer "+pair.SessionID); code != codes.OK {
			t.Errorf("%s: got %v %s", name, code, reason)
		}
		policy := guard.Policy{RolesAll: []string{"admin"}}
		admins := dial(t, guard.Policies{"/grpc.health.v1.Health/Check": policy, "/grpc.health.v1.Health/Watch": policy})
		if code, reason := call(t.Context(), admins, "authorization", "Bearer "+pair.SessionID); code != codes.PermissionDenied || reason != "ROLE_MISSING" {
			t.Errorf("%s: got %v %s", name, code, reason)
		}
		policy = guard.Policy{Route: strings.Repeat("x", 200)}
		wrong := dial(t, guard.Policies{"/grpc.health.v1.Health/Check": policy, "/grpc.health.v1.Health/Watch": policy})
		if code, reason := call(t.Context(), wrong, "authorization", "Bearer "+pair.SessionID); code != codes.Internal || reason != "INTERNAL" {
			t.Errorf("%s: got %v %s", name, code, reason)
		}
		policy = guard.Policy{Session: guard.None}
		open := dial(t, guard.Policies{"/grpc.health.v1.Health/Check": policy, "/grpc.health.v1.Health/Watch": policy})
		if code, _ := call(t.Context(), open); code != codes.NotFound {
			t.Errorf("%s: got %v", name, code)
		}
	}
}
