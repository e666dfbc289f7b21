package guard

import (
	"context"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	trustlayer "trustlayer/clients/go"
)

// Policies are those of gRPC methods, by their full names: `/package.Service/Method`. A method that is not among them
// needs a session in the sidecar's default mode; so do health checks and reflection, unless they are named here.
type Policies map[string]Policy

// UnaryInterceptor refuses unary calls that do not pass, before their handler is called.
func (g *Guard) UnaryInterceptor(policies Policies) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := g.enter(ctx, policies[info.FullMethod])
		if err != nil {
			return nil, err
		}
		return handler(ctx, message)
	}
}

// StreamInterceptor refuses streams that do not pass. It looks once, when the stream begins: a session that is revoked
// later does not end it.
func (g *Guard) StreamInterceptor(policies Policies) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, err := g.enter(stream.Context(), policies[info.FullMethod])
		if err != nil {
			return err
		}
		return handler(server, &streamWithContext{stream, ctx})
	}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

func (g *Guard) enter(ctx context.Context, policy Policy) (context.Context, error) {
	session, refusal := g.decide(ctx, grpcRequest(ctx), policy)
	if refusal != nil {
		return nil, statusOf(refusal)
	}
	if session != nil {
		ctx = trustlayer.NewContext(ctx, session)
	}
	return ctx, nil
}

func grpcRequest(ctx context.Context) request {
	sent, _ := metadata.FromIncomingContext(ctx)
	r := request{lines: func(name string) []string { return sent.Get(strings.ToLower(name)) }}
	if from, has := peer.FromContext(ctx); has && from.Addr != nil {
		r.peer = from.Addr.String()
	}
	return r
}

func statusOf(refusal *Refusal) error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: refusal.Reason, Domain: trustlayer.Domain}}
	if refusal.Code == codes.Unavailable {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(refusal.RetryAfter)})
	}
	said := status.New(refusal.Code, refusal.Message)
	if detailed, err := said.WithDetails(details...); err == nil {
		said = detailed
	}
	return said.Err()
}
