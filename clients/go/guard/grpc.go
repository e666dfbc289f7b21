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
	"google.golang.org/protobuf/types/known/durationpb"

	trustlayer "trustlayer/clients/go"
)

// Policies are those of gRPC methods, by their full names: `/package.Service/Method`. A method that is not among them
// needs a session in the sidecar's default mode; so do health checks and reflection, unless they are named here.
type Policies map[string]Policy

func (p Policies) must() {
	for _, policy := range p {
		policy.must()
	}
}

// reasonTrailer is the trailing metadata with the reason of a refusal. It is no ErrorInfo of the Trust Layer: the app
// refuses, and its callers may be clients of a sidecar themselves.
const reasonTrailer = "trustlayer-reason"

// UnaryInterceptor refuses unary calls that do not pass, before their handler is called. Like StreamInterceptor it
// panics at a policy that is never meant, as HTTP does.
func (g *Guard) UnaryInterceptor(policies Policies) grpc.UnaryServerInterceptor {
	policies.must()
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		entered, refusal := g.enter(ctx, policies[info.FullMethod])
		if refusal != nil {
			// It fails only outside of a call; without a trailer the call is refused all the same.
			_ = grpc.SetTrailer(ctx, metadata.Pairs(reasonTrailer, refusal.Reason))
			return nil, statusOf(refusal)
		}
		return handler(entered, message)
	}
}

// StreamInterceptor refuses streams that do not pass. It looks once, when the stream begins: a session that is revoked
// later does not end it.
func (g *Guard) StreamInterceptor(policies Policies) grpc.StreamServerInterceptor {
	policies.must()
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, refusal := g.enter(stream.Context(), policies[info.FullMethod])
		if refusal != nil {
			stream.SetTrailer(metadata.Pairs(reasonTrailer, refusal.Reason))
			return statusOf(refusal)
		}
		return handler(server, &streamWithContext{stream, ctx})
	}
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

func (g *Guard) enter(ctx context.Context, policy Policy) (context.Context, *Refusal) {
	session, refusal := g.decide(ctx, grpcRequest(ctx), policy)
	if refusal != nil {
		return nil, refusal
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
	said := status.New(refusal.Code, refusal.Message)
	if refusal.Code == codes.Unavailable {
		later := &errdetails.RetryInfo{RetryDelay: durationpb.New(refusal.RetryAfter)}
		if detailed, err := said.WithDetails(later); err == nil {
			said = detailed
		}
	}
	return said.Err()
}
