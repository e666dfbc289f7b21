package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/conformance/conformancev1"
	"trustlayer/clients/go/trustlayerv1"
)

// driver has one client per socket.
type driver struct {
	clients map[string]*trustlayer.Client
}

func newDriver() *driver { return &driver{clients: map[string]*trustlayer.Client{}} }

func (d *driver) close() {
	for _, client := range d.clients {
		client.Close()
	}
}

// do does what the runner asks, and never fails: what it cannot do is `broken`.
func (d *driver) do(request *conformancev1.DriverRequest) (response *conformancev1.DriverResponse) {
	defer func() {
		if panicked := recover(); panicked != nil {
			response = broken("panic: %v", panicked)
		}
	}()
	if _, is := request.GetCall().(*conformancev1.DriverRequest_Describe); is {
		return description()
	}
	client, err := d.client(request.GetSocket())
	if err != nil {
		return broken("no client: %v", err)
	}
	ctx, cancel := contextOf(request)
	defer cancel()
	switch call := request.GetCall().(type) {
	case *conformancev1.DriverRequest_Validate:
		return validate(ctx, client, call.Validate)
	case *conformancev1.DriverRequest_Rpc:
		return rpc(ctx, client, call.Rpc)
	default:
		return broken("an unknown call")
	}
}

func (d *driver) client(socket string) (*trustlayer.Client, error) {
	if client, has := d.clients[socket]; has {
		return client, nil
	}
	client, err := trustlayer.New(socket)
	if err == nil {
		d.clients[socket] = client
	}
	return client, err
}

// contextOf makes the context of a caller who has a deadline, or gives up, as the request says.
func contextOf(request *conformancev1.DriverRequest) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	if after := request.GetCancelAfter(); after != nil {
		time.AfterFunc(after.AsDuration(), cancel)
	}
	if timeout := request.GetTimeout(); timeout != nil {
		withDeadline, end := context.WithTimeout(ctx, timeout.AsDuration())
		return withDeadline, func() { end(); cancel() }
	}
	return ctx, cancel
}

func description() *conformancev1.DriverResponse {
	return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Description{
		Description: &conformancev1.Description{
			Language: "go", ClientVersion: trustlayer.Version, Runtime: runtime.Version(),
		},
	}}
}

func validate(ctx context.Context, client *trustlayer.Client, question *trustlayerv1.ValidateRequest) *conformancev1.DriverResponse {
	answer, err := client.Validate(ctx, question)
	if err == nil {
		return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Active{
			Active: &conformancev1.Active{Session: answer.Session, Freshness: answer.Freshness},
		}}
	}
	if denied, is := errors.AsType[*trustlayer.DeniedError](err); is {
		return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Denied{
			Denied: &conformancev1.Denied{Reason: int32(denied.Reason), Message: denied.Message},
		}, Shown: shown(err)}
	}
	if unavailable, is := errors.AsType[*trustlayer.UnavailableError](err); is {
		return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Unavailable{
			Unavailable: failureOf(unavailable.Failure),
		}, Shown: shown(err)}
	}
	return failed(err)
}

// rpc calls the method of the client's stub that has this name.
func rpc(ctx context.Context, client *trustlayer.Client, call *conformancev1.Rpc) *conformancev1.DriverResponse {
	service, name, _ := strings.Cut(call.GetMethod(), "/")
	method := reflect.ValueOf(map[string]any{
		"trustlayer.v1.ValidatorService":  client.Validator(),
		"trustlayer.v1.IdentityService":   client.Identity(),
		"trustlayer.v1.SessionService":    client.Sessions(),
		"trustlayer.v1.TrustTokenService": client.TrustTokens(),
	}[service])
	if method.IsValid() {
		method = method.MethodByName(name)
	}
	if !method.IsValid() || method.Type().NumIn() != 3 {
		return broken("no unary method %s", call.GetMethod())
	}
	request, _ := reflect.New(method.Type().In(1).Elem()).Interface().(proto.Message)
	if err := proto.Unmarshal(call.GetRequest(), request); err != nil {
		return broken("the request cannot be read: %v", err)
	}
	results := method.Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(request)})
	if err, _ := results[1].Interface().(error); err != nil {
		return failed(err)
	}
	answer, err := proto.Marshal(results[0].Interface().(proto.Message))
	if err != nil {
		return broken("the answer cannot be serialized: %v", err)
	}
	return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Response{Response: answer}}
}

// failed says what any call's error says.
func failed(err error) *conformancev1.DriverResponse {
	if errors.Is(err, context.Canceled) {
		return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Cancelled{
			Cancelled: &conformancev1.Cancelled{},
		}}
	}
	var failure trustlayer.Failure
	if unavailable, is := errors.AsType[*trustlayer.UnavailableError](err); is {
		failure = unavailable.Failure
	} else if refused, is := errors.AsType[*trustlayer.CallError](err); is {
		failure = refused.Failure
	} else {
		return broken("an error of type %T", err)
	}
	return &conformancev1.DriverResponse{
		Result: &conformancev1.DriverResponse_Failure{Failure: failureOf(failure)}, Shown: shown(err),
	}
}

// shown is all that fmt prints of the error and of what it wraps.
func shown(err error) string {
	var all strings.Builder
	for ; err != nil; err = errors.Unwrap(err) {
		fmt.Fprintf(&all, "%v\n%+v\n%#v\n", err, err, err)
	}
	return all.String()
}

func failureOf(failure trustlayer.Failure) *conformancev1.Failure {
	said := &conformancev1.Failure{
		Code: int32(failure.Code), Reason: failure.Reason, Message: failure.Message,
		Fields: failure.Fields, RequestId: failure.RequestID,
	}
	if failure.RetryAfter > 0 {
		said.RetryAfter = durationpb.New(failure.RetryAfter)
	}
	return said
}

func broken(format string, values ...any) *conformancev1.DriverResponse {
	return &conformancev1.DriverResponse{Result: &conformancev1.DriverResponse_Broken{Broken: fmt.Sprintf(format, values...)}}
}
