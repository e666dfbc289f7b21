// Package trustlayer asks the sidecar beside an app whether sessions are valid, and reaches the services that the
// sidecar relays.
//
// A [Client] speaks gRPC over the sidecar's Unix socket. It holds no secret and caches nothing: the sidecar does both.
// [Client.Validate] has three outcomes: an [Answer] with the session, a [*DeniedError] (a definite no), or an
// [*UnavailableError] (cannot know). Only the first is a yes.
//
// Package guard beside this one has middleware for net/http and interceptors for gRPC servers.
package trustlayer

import (
	"context"
	"errors"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"trustlayer/clients/go/trustlayerv1"
)

// Version of this client.
const Version = "0.1.0"

const (
	// DefaultValidateTimeout bounds Validate and GetStatus, also where the caller's context has more time.
	DefaultValidateTimeout = 2 * time.Second
	// DefaultCallTimeout bounds every other call where the caller's context has no deadline.
	DefaultCallTimeout = 10 * time.Second
)

const (
	// gRPC's own delays, a second and more, would keep a client from a sidecar that is back.
	firstReconnectDelay = 20 * time.Millisecond
	mostReconnectDelay  = 500 * time.Millisecond
	// Who accepts a connection and then says nothing is given up after this long.
	connectTimeout = 2 * time.Second
)

// Client is a connection to one sidecar. It connects when it is first used, and anew whenever the sidecar comes back.
// It is safe for use by several goroutines; an app needs one. Call Close when it is not needed any more.
type Client struct {
	conn        *grpc.ClientConn
	validator   trustlayerv1.ValidatorServiceClient
	identity    trustlayerv1.IdentityServiceClient
	sessions    trustlayerv1.SessionServiceClient
	trustTokens trustlayerv1.TrustTokenServiceClient
}

// Option changes a default of New.
type Option func(*calls)

// WithValidateTimeout bounds Validate and GetStatus, also where the caller's context has more time. It must be positive.
func WithValidateTimeout(timeout time.Duration) Option {
	return func(c *calls) { c.validateTimeout = timeout }
}

// WithCallTimeout bounds every other call where the caller's context has no deadline. It must be positive.
func WithCallTimeout(timeout time.Duration) Option {
	return func(c *calls) { c.callTimeout = timeout }
}

// New makes a client of the sidecar whose socket has this path. It does no I/O: a sidecar that is not there yet is
// no error.
func New(socket string, options ...Option) (*Client, error) {
	if socket == "" {
		return nil, errors.New("trustlayer: the path of the sidecar's socket is empty")
	}
	c := calls{validateTimeout: DefaultValidateTimeout, callTimeout: DefaultCallTimeout}
	for _, option := range options {
		option(&c)
	}
	if c.validateTimeout <= 0 || c.callTimeout <= 0 {
		return nil, errors.New("trustlayer: a timeout must be positive")
	}
	conn, err := dial(socket, c.intercept)
	if err != nil {
		return nil, err
	}
	return &Client{
		conn:        conn,
		validator:   trustlayerv1.NewValidatorServiceClient(conn),
		identity:    trustlayerv1.NewIdentityServiceClient(conn),
		sessions:    trustlayerv1.NewSessionServiceClient(conn),
		trustTokens: trustlayerv1.NewTrustTokenServiceClient(conn),
	}, nil
}

func dial(socket string, interceptor grpc.UnaryClientInterceptor) (*grpc.ClientConn, error) {
	wait := backoff.Config{BaseDelay: firstReconnectDelay, Multiplier: 1.6, Jitter: 0.2, MaxDelay: mostReconnectDelay}
	var dialer net.Dialer
	// A dialer and not gRPC's `unix:`, which takes the path for a URL and decodes it.
	return grpc.NewClient("passthrough:///localhost",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: wait, MinConnectTimeout: connectTimeout}),
		grpc.WithUnaryInterceptor(interceptor),
		grpc.WithUserAgent("trustlayer-go/"+Version),
		grpc.WithNoProxy(),
		// What gRPC would repeat by itself includes UNAVAILABLE that is an answer.
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// Fixed windows: to tune them, grpc-go would send a ping with every answer.
		grpc.WithStaticStreamWindowSize(1<<16), grpc.WithStaticConnWindowSize(1<<20))
}

// Close ends the connection. Calls in flight fail.
func (c *Client) Close() error { return c.conn.Close() }

// Validator is the sidecar's own service. Its Validate answers a denial without an error: use [Client.Validate].
func (c *Client) Validator() trustlayerv1.ValidatorServiceClient { return c.validator }

// Identity is the service of users, as far as the sidecar relays it.
func (c *Client) Identity() trustlayerv1.IdentityServiceClient { return c.identity }

// Sessions is the service of logins and sessions, as far as the sidecar relays it.
func (c *Client) Sessions() trustlayerv1.SessionServiceClient { return c.sessions }

// TrustTokens is the service of trust tokens, as far as the sidecar relays it.
func (c *Client) TrustTokens() trustlayerv1.TrustTokenServiceClient { return c.trustTokens }

// Answer is a yes.
type Answer struct {
	// Session is active, for the request that was asked about.
	Session *trustlayerv1.Session
	// Freshness says how fresh the answer is.
	Freshness *trustlayerv1.Freshness
}

// Validate asks whether a session is active for a request.
//
// It returns a *DeniedError for a definite no, an *UnavailableError when that cannot be known, a *CallError when the
// question itself is wrong (INVALID_FIELD), and context.Canceled when the caller gave up. It has no side effects, and
// is repeated where no sidecar answered.
func (c *Client) Validate(ctx context.Context, question *trustlayerv1.ValidateRequest) (*Answer, error) {
	answer, err := c.validator.Validate(ctx, question)
	if err != nil {
		return nil, cannotKnow(err)
	}
	switch result := answer.GetResult().(type) {
	case *trustlayerv1.ValidateResponse_Session:
		if result.Session.GetHandle() == "" || result.Session.GetUser().GetId() == "" {
			return nil, &UnavailableError{Failure{Code: codes.Unknown, Message: "the answer holds a session of nobody"}}
		}
		return &Answer{Session: result.Session, Freshness: answer.GetFreshness()}, nil
	case *trustlayerv1.ValidateResponse_Denial:
		return nil, &DeniedError{
			Reason:    result.Denial.GetReason(),
			Message:   result.Denial.GetMessage(),
			Freshness: answer.GetFreshness(),
		}
	default:
		return nil, &UnavailableError{Failure{Code: codes.Unknown, Message: "the answer is neither a session nor a denial"}}
	}
}

// cannotKnow makes of any failed validation that is no fault of the question an *UnavailableError.
func cannotKnow(err error) error {
	failed, is := errors.AsType[*CallError](err)
	// Without a reason of ours it was no sidecar that found the question wrong.
	if is && (failed.Code != codes.InvalidArgument || failed.Reason == "") {
		return &UnavailableError{failed.Failure}
	}
	return err
}
