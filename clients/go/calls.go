package trustlayer

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	"trustlayer/clients/go/trustlayerv1"
)

// retryDelays are waited before a call without side effects is made again.
var retryDelays = [...]time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 180 * time.Millisecond}

// calls gives every unary call a deadline, repeats what is safe to repeat, and turns failures into errors of ours.
type calls struct {
	validateTimeout, callTimeout time.Duration
}

func (c *calls) intercept(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	ctx, cancel := c.bound(ctx, method)
	defer cancel()
	for attempt := 0; ; attempt++ {
		err := invoke(ctx, method, request, reply, conn, options...)
		if err == nil {
			return nil
		}
		failed := failureOf(err)
		again := attempt < len(retryDelays) && withoutSideEffects()[method] && failed.wasNotAnswered()
		if !again || !wait(ctx, retryDelays[attempt]) {
			return errorOf(ctx, failed)
		}
	}
}

// bound gives the call its deadline. That of a validation is the shorter one of the caller's and ours: the context of a
// guarded request has the deadline that its client chose, who must not choose how long a guard waits.
func (c *calls) bound(ctx context.Context, method string) (context.Context, context.CancelFunc) {
	switch method {
	case trustlayerv1.ValidatorService_Validate_FullMethodName, trustlayerv1.ValidatorService_GetStatus_FullMethodName:
		return context.WithTimeout(ctx, c.validateTimeout)
	}
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, c.callTimeout)
}

// wait waits; false when the caller gives up meanwhile, or when the deadline would pass.
func wait(ctx context.Context, delay time.Duration) bool {
	if deadline, has := ctx.Deadline(); has && time.Until(deadline) <= delay {
		return false
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// errorOf makes the error of a call that failed and is not made again.
func errorOf(ctx context.Context, failed Failure) error {
	// Whoever gave up is told so, and not what became of the call meanwhile.
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Canceled
	}
	switch failed.Code {
	case codes.Unavailable, codes.DeadlineExceeded:
		return &UnavailableError{failed}
	default:
		return &CallError{failed}
	}
}

// failureOf reads a failed call. What it does not know of the error's details is passed over.
func failureOf(err error) Failure {
	said := status.Convert(err)
	failed := Failure{Code: said.Code(), Message: said.Message()}
	for _, detail := range said.Details() {
		failed.read(detail)
	}
	return failed
}

// withoutSideEffects says which methods have none: the proto's idempotency_level.
var withoutSideEffects = sync.OnceValue(func() map[string]bool {
	found := map[string]bool{}
	for _, file := range []protoreflect.FileDescriptor{
		trustlayerv1.File_trustlayer_v1_validator_proto,
		trustlayerv1.File_trustlayer_v1_identity_proto,
		trustlayerv1.File_trustlayer_v1_session_proto,
		trustlayerv1.File_trustlayer_v1_trust_token_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				options, _ := method.Options().(*descriptorpb.MethodOptions)
				if options.GetIdempotencyLevel() == descriptorpb.MethodOptions_NO_SIDE_EFFECTS {
					found["/"+string(service.FullName())+"/"+string(method.Name())] = true
				}
			}
		}
	}
	return found
})
