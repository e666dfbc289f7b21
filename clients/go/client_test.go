package trustlayer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/pairtest"
	"trustlayer/clients/go/trustlayerv1"
)

var pair *pairtest.Pair

func TestMain(m *testing.M) {
	os.Exit(pairtest.Run(m, func(started *pairtest.Pair) { pair = started }))
}

func newClient(t *testing.T, socket string, options ...trustlayer.Option) *trustlayer.Client {
	t.Helper()
	client, err := trustlayer.New(socket, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func question() *trustlayerv1.ValidateRequest {
	return &trustlayerv1.ValidateRequest{
		SessionId: pair.SessionID, Mode: trustlayerv1.ValidationMode_VALIDATION_MODE_STRICT, Context: pair.Context(),
	}
}

func TestAnActiveSessionIsAnAnswerWithItsUserAndItsFreshness(t *testing.T) {
	answer, err := newClient(t, pair.Socket).Validate(t.Context(), question())
	if err != nil {
		t.Fatal(err)
	}
	if answer.Session.GetUser().GetName() != "Ada" || answer.Freshness.GetTier() == trustlayerv1.Tier_TIER_UNSPECIFIED {
		t.Errorf("got %v", answer)
	}
}

func TestADenialIsADeniedErrorAndNothingElse(t *testing.T) {
	asked := question()
	asked.Context.UserAgent = "another"
	_, err := newClient(t, pair.Socket).Validate(t.Context(), asked)
	denied, is := errors.AsType[*trustlayer.DeniedError](err)
	if !is || denied.Reason != trustlayerv1.DenialReason_DENIAL_REASON_USER_AGENT_MISMATCH {
		t.Fatalf("got %v", err)
	}
	if denied.ReasonName() != "USER_AGENT_MISMATCH" || denied.Message == "" || denied.Freshness.GetTier() == trustlayerv1.Tier_TIER_UNSPECIFIED {
		t.Errorf("got %+v", denied)
	}
	if !errors.Is(err, trustlayer.ErrDenied) || errors.Is(err, trustlayer.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAQuestionThatIsWrongIsACallErrorThatNamesTheFields(t *testing.T) {
	asked := question()
	asked.MinRevision = -1
	_, err := newClient(t, pair.Socket).Validate(t.Context(), asked)
	failed, is := errors.AsType[*trustlayer.CallError](err)
	if !is || failed.Reason != "INVALID_FIELD" || len(failed.Fields) != 1 || failed.Fields[0] != "min_revision" {
		t.Fatalf("got %v", err)
	}
	if failed.RequestID == "" || strings.Contains(fmt.Sprintf("%v %+v", err, failed), pair.SessionID) {
		t.Errorf("got %+v", failed)
	}
}

func TestARefusedLoginIsACallError(t *testing.T) {
	_, err := newClient(t, pair.Socket).Sessions().Login(t.Context(), &trustlayerv1.LoginRequest{
		Login: pair.Login, Password: "not this one", Context: pair.Context(),
	})
	failed, is := errors.AsType[*trustlayer.CallError](err)
	if !is || failed.Code != codes.Unauthenticated || failed.Reason != "LOGIN_REFUSED" {
		t.Errorf("got %v", err)
	}
}

func TestAClientOutlivesTheRestartOfItsSidecar(t *testing.T) {
	client := newClient(t, pair.Socket)
	if _, err := client.Validate(t.Context(), question()); err != nil {
		t.Fatal(err)
	}
	pair.MustDo(t, "stop-sidecar")
	_, err := client.Validate(t.Context(), question())
	unavailable, is := errors.AsType[*trustlayer.UnavailableError](err)
	if !is || unavailable.Code != codes.Unavailable || unavailable.Reason != "" || !errors.Is(err, trustlayer.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if strings.Contains(err.Error(), pair.SessionID) {
		t.Error("the error holds the session id")
	}
	// For long enough that the delay between two attempts to connect is as long as it gets.
	for range 10 {
		if _, err := client.Validate(t.Context(), question()); err == nil {
			t.Fatal("no sidecar said yes")
		}
	}
	pair.MustDo(t, "start-sidecar")
	back := time.Now()
	for {
		_, err := client.Validate(t.Context(), question())
		if err == nil {
			break
		}
		if time.Since(back) > time.Second {
			t.Fatalf("not there again a second after the sidecar: %v", err)
		}
	}
}

func TestASidecarThatDoesNotAnswerIsUnavailableAtTheDeadline(t *testing.T) {
	client := newClient(t, pair.Socket, trustlayer.WithValidateTimeout(300*time.Millisecond))
	if _, err := client.Validate(t.Context(), question()); err != nil {
		t.Fatal(err)
	}
	pair.MustDo(t, "pause-sidecar")
	t.Cleanup(func() { pair.MustDo(t, "resume-sidecar") })
	begin := time.Now()
	_, err := client.Validate(t.Context(), question())
	unavailable, is := errors.AsType[*trustlayer.UnavailableError](err)
	if !is || unavailable.Code != codes.DeadlineExceeded || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took < 250*time.Millisecond || took > 2*time.Second {
		t.Errorf("the deadline passed after %v", took)
	}
}

func TestWhoGivesUpGetsTheLanguagesOwnError(t *testing.T) {
	client := newClient(t, pair.Socket)
	pair.MustDo(t, "pause-sidecar")
	t.Cleanup(func() { pair.MustDo(t, "resume-sidecar") })
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err := client.Validate(ctx, question())
	if !errors.Is(err, context.Canceled) || errors.Is(err, trustlayer.ErrUnavailable) || errors.Is(err, trustlayer.ErrDenied) {
		t.Errorf("got %v", err)
	}
}

func TestAClosedClientSaysYesToNobody(t *testing.T) {
	client := newClient(t, pair.Socket)
	client.Close()
	if _, err := client.Validate(t.Context(), question()); !errors.Is(err, trustlayer.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestAClientThatCouldNeverWorkIsNotMade(t *testing.T) {
	if _, err := trustlayer.New(""); err == nil {
		t.Error("without a socket")
	}
	if _, err := trustlayer.New("/s", trustlayer.WithValidateTimeout(0)); err == nil {
		t.Error("without time to validate")
	}
	if _, err := trustlayer.New("/s", trustlayer.WithCallTimeout(-1)); err == nil {
		t.Error("without time for calls")
	}
}
