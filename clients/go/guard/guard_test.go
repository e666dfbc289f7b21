package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/guard"
	"trustlayer/clients/go/pairtest"
	"trustlayer/clients/go/trustlayerv1"
)

const rules = `
[[routes]]
name = "admins"
roles_all = ["admin"]

[[routes]]
name = "fresh"
max_authentication_age_seconds = 1
`

var (
	pair   *pairtest.Pair
	client *trustlayer.Client
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	directory, err := os.MkdirTemp("", "tl-guard-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(directory)
	file := filepath.Join(directory, "sidecar.toml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		panic(err)
	}
	return pairtest.Run(m, func(started *pairtest.Pair) {
		pair = started
		if client, err = trustlayer.New(pair.Socket); err != nil {
			panic(err)
		}
	}, "--sidecar-config", file, "--role", "reader", "--role", "editor")
}

// whoami answers with the name of the session's user.
var whoami = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	name := trustlayer.SessionFrom(r.Context()).GetUser().GetName()
	if name == "" {
		name = "nobody"
	}
	io.WriteString(w, name)
})

func newGuard(t *testing.T, options guard.Options) *guard.Guard {
	t.Helper()
	made, err := guard.New(client, options)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// serve serves the handler on loopback, from where the session's login came.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// answer is what a client sees.
type answer struct {
	status  int
	reason  string
	message string
	body    string
	header  http.Header
}

func get(t *testing.T, url string, headers ...string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("User-Agent", pair.UserAgent)
	for i := 0; i < len(headers); i += 2 {
		request.Header.Add(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	got := answer{status: response.StatusCode, body: string(body), header: response.Header}
	var said struct{ Reason, Message string }
	if json.Unmarshal(body, &said) == nil {
		got.reason, got.message = said.Reason, said.Message
	}
	return got
}

func (a answer) is(t *testing.T, status int, reason string) {
	t.Helper()
	if a.status != status || a.reason != reason {
		t.Errorf("got %d %q, not %d %q", a.status, a.body, status, reason)
	}
	if status != http.StatusOK && (a.header.Get("Cache-Control") != "no-store" || a.message == "") {
		t.Errorf("got %v %q", a.header, a.body)
	}
}

func cookie() string { return "session_id=" + pair.SessionID }

func TestWhoeverHasASessionPassesWithItAndNobodyElse(t *testing.T) {
	url := serve(t, newGuard(t, guard.Options{}).HTTP(guard.Policy{}, whoami))
	for _, headers := range [][]string{
		{"Cookie", cookie()},
		{"Cookie", "a=b; " + cookie() + "; c=d"},
		{"Cookie", cookie() + "; " + cookie()},
		{"Authorization", "bearer  " + pair.SessionID},
		{"Authorization", "Basic eA==", "Authorization", "Bearer " + pair.SessionID},
	} {
		if got := get(t, url, headers...); got.status != http.StatusOK || got.body != "Ada" {
			t.Errorf("got %d %q", got.status, got.body)
		}
	}
	missing := get(t, url)
	missing.is(t, http.StatusUnauthorized, "SESSION_MISSING")
	if missing.header.Get("WWW-Authenticate") != "Bearer" {
		t.Errorf("got %v", missing.header)
	}
	denied := get(t, url, "Cookie", "session_id=sess_x")
	denied.is(t, http.StatusUnauthorized, "MALFORMED")
	if denied.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
		t.Errorf("got %v", denied.header)
	}
}

func TestTwoSessionIDsInOnePlaceAreNone(t *testing.T) {
	url := serve(t, newGuard(t, guard.Options{}).HTTP(guard.Policy{}, whoami))
	for _, headers := range [][]string{
		{"Cookie", cookie() + "; session_id=other"},
		{"Cookie", "session_id=other", "Cookie", cookie()},
		{"Cookie", "session_id=; " + cookie()},
		{"Authorization", "Bearer " + pair.SessionID, "Authorization", "Bearer other"},
		{"Cookie", "session_id=" + strings.Repeat("x", 129)},
		// The first place in which anything was sent counts, whatever it is.
		{"Cookie", "session_id=\xff", "Authorization", "Bearer " + pair.SessionID},
		{"Cookie", "session_id=", "Authorization", "Bearer " + pair.SessionID},
	} {
		get(t, url, headers...).is(t, http.StatusUnauthorized, "MALFORMED")
	}
}

func TestOnlyThePlacesThatTheAppNamesAreLookedAt(t *testing.T) {
	url := serve(t, newGuard(t, guard.Options{SessionIDFrom: []guard.Source{guard.Cookie("__Host-id")}}).HTTP(guard.Policy{}, whoami))
	get(t, url, "Cookie", cookie(), "Authorization", "Bearer "+pair.SessionID).is(t, http.StatusUnauthorized, "SESSION_MISSING")
	if got := get(t, url, "Cookie", "__Host-id="+pair.SessionID); got.status != http.StatusOK {
		t.Errorf("got %+v", got)
	}
}

func TestAPolicyAsksForModeRuleAndRoles(t *testing.T) {
	mux := newGuard(t, guard.Options{}).NewMux()
	strict := trustlayerv1.ValidationMode_VALIDATION_MODE_STRICT
	mux.HandleFunc("GET /strict", guard.Policy{Mode: strict}, whoami)
	mux.HandleFunc("GET /rule", guard.Policy{Route: "admins"}, whoami)
	mux.HandleFunc("GET /no-rule", guard.Policy{Route: "forgotten"}, whoami)
	mux.HandleFunc("GET /fresh", guard.Policy{Route: "fresh"}, whoami)
	mux.HandleFunc("GET /roles", guard.Policy{RolesAll: []string{"reader", "editor"}}, whoami)
	mux.HandleFunc("GET /more-roles", guard.Policy{RolesAll: []string{"reader", "admin"}}, whoami)
	mux.HandleFunc("GET /any-role", guard.Policy{RolesAny: []string{"admin", "editor"}}, whoami)
	mux.HandleFunc("GET /other-roles", guard.Policy{RolesAny: []string{"admin", "auditor"}}, whoami)
	mux.HandleFunc("GET /wrong", guard.Policy{Route: strings.Repeat("x", 200)}, whoami)
	url := serve(t, mux)
	get(t, url+"/strict", "Cookie", cookie()).is(t, http.StatusUnauthorized, "CONTEXT_MISSING")
	get(t, url+"/strict", "Cookie", cookie(), "X-Device-Fingerprint", pair.DeviceFingerprint).is(t, http.StatusOK, "")
	get(t, url+"/strict", "Cookie", cookie(), "X-Device-Fingerprint", "x").is(t, http.StatusUnauthorized, "DEVICE_MISMATCH")
	get(t, url+"/rule", "Cookie", cookie()).is(t, http.StatusForbidden, "ROLE_MISSING")
	get(t, url+"/no-rule", "Cookie", cookie()).is(t, http.StatusForbidden, "ROUTE_NOT_COVERED")
	get(t, url+"/roles", "Cookie", cookie()).is(t, http.StatusOK, "")
	get(t, url+"/more-roles", "Cookie", cookie()).is(t, http.StatusForbidden, "ROLE_MISSING")
	get(t, url+"/any-role", "Cookie", cookie()).is(t, http.StatusOK, "")
	get(t, url+"/other-roles", "Cookie", cookie()).is(t, http.StatusForbidden, "ROLE_MISSING")
	// It is the app's mistake, and says to nobody what it is.
	wrong := get(t, url+"/wrong", "Cookie", cookie())
	wrong.is(t, http.StatusInternalServerError, "INTERNAL")
	if wrong.message != "internal error" || wrong.header.Get("Retry-After") != "" {
		t.Errorf("got %v %q", wrong.header, wrong.body)
	}
	waitUntilOld(t, url+"/fresh")
}

// waitUntilOld asks until the proof of the session's login is too old for the rule, which it is after a second.
func waitUntilOld(t *testing.T, url string) {
	t.Helper()
	for {
		got := get(t, url, "Cookie", cookie())
		if got.status == http.StatusOK {
			continue
		}
		got.is(t, http.StatusUnauthorized, "AUTHENTICATION_TOO_OLD")
		if got.header.Get("WWW-Authenticate") != `Bearer error="insufficient_user_authentication"` {
			t.Errorf("got %v", got.header)
		}
		return
	}
}

func TestAMuxNeedsASessionWhereNothingElseIsSaid(t *testing.T) {
	mux := newGuard(t, guard.Options{}).NewMux()
	mux.HandleFunc("GET /{$}", guard.Policy{Session: guard.None}, whoami)
	mux.HandleFunc("GET /maybe", guard.Policy{Session: guard.Optional}, whoami)
	mux.HandleFunc("GET /tree/", guard.Policy{}, whoami)
	url := serve(t, mux)
	get(t, url+"/unknown").is(t, http.StatusUnauthorized, "SESSION_MISSING")
	if got := get(t, url+"/unknown", "Cookie", cookie()); got.status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
	for path, want := range map[string]string{"/": "nobody", "/maybe": "Ada"} {
		if got := get(t, url+path, "Cookie", cookie()); got.body != want {
			t.Errorf("%s: got %q", path, got.body)
		}
	}
	for _, sent := range []string{"", "session_id=sess_x"} {
		if got := get(t, url+"/maybe", "Cookie", sent); got.body != "nobody" {
			t.Errorf("%q: got %q", sent, got.body)
		}
	}
	for _, path := range []string{"/tree", "//tree/", "//maybe", "/tree/../maybe"} {
		get(t, url+path).is(t, http.StatusUnauthorized, "SESSION_MISSING")
		if got := get(t, url+path, "Cookie", cookie()); got.body != "Ada" {
			t.Errorf("%s: got %+v", path, got)
		}
	}
}

func TestAPolicyThatNobodyMeansEndsTheProgramWhereItIsMade(t *testing.T) {
	made := newGuard(t, guard.Options{})
	strict := trustlayerv1.ValidationMode_VALIDATION_MODE_STRICT
	for _, policy := range []guard.Policy{
		{Session: guard.Optional, RolesAll: []string{"admin"}},
		{Session: guard.Optional, RolesAny: []string{"admin"}},
		{Session: guard.Optional, Mode: strict},
		{Session: guard.Optional, Route: "admins"},
		{Session: guard.None, RolesAll: []string{"admin"}},
		{Session: guard.None, Mode: strict},
		{Session: guard.None, Route: "admins"},
		{RolesAny: []string{}},
		{Session: 4},
	} {
		policies := guard.Policies{"/a.B/C": policy}
		for name, use := range map[string]func(){
			"HTTP":   func() { made.HTTP(policy, whoami) },
			"Handle": func() { made.NewMux().Handle("/", policy, whoami) },
			"unary":  func() { made.UnaryInterceptor(policies) },
			"stream": func() { made.StreamInterceptor(policies) },
		} {
			if !panics(use) {
				t.Errorf("%s takes %+v", name, policy)
			}
		}
	}
}

func panics(use func()) (did bool) {
	defer func() { did = recover() != nil }()
	use()
	return false
}

func TestWhatIsNoSessionIDIsDeniedWithoutASidecar(t *testing.T) {
	made, err := guard.New(failing{errors.New("asked")}, guard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	url := serve(t, made.HTTP(guard.Policy{}, whoami))
	maybe := serve(t, made.HTTP(guard.Policy{Session: guard.Optional}, whoami))
	for _, sent := range []string{"", strings.Repeat("x", 129), strings.Repeat("\xe9", 65), "a; session_id=b"} {
		denied := get(t, url, "Cookie", "session_id="+sent)
		denied.is(t, http.StatusUnauthorized, "MALFORMED")
		if denied.header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("got %v", denied.header)
		}
		if got := get(t, maybe, "Cookie", "session_id="+sent); got.body != "nobody" {
			t.Errorf("%q: got %+v", sent, got)
		}
	}
	get(t, url, "Cookie", "session_id="+strings.Repeat("x", 128)).is(t, http.StatusServiceUnavailable, "UNAVAILABLE")
}

// A client of the app chooses the deadline of a request, and not how long the guard waits for a sidecar that hangs.
func TestNoRequestMakesAGuardWaitLonger(t *testing.T) {
	deaf, err := net.Listen("unix", filepath.Join(t.TempDir(), "deaf"))
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	patient, err := trustlayer.New(deaf.Addr().String(), trustlayer.WithValidateTimeout(300*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer patient.Close()
	made, err := guard.New(patient, guard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	enter := made.UnaryInterceptor(nil)
	sent := metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer x"))
	_, err = enter(sent, nil, &grpc.UnaryServerInfo{FullMethod: "/a.B/C"}, nil)
	if took := time.Since(begin); status.Code(err) != codes.Unavailable || took > 5*time.Second {
		t.Errorf("got %v after %v", err, took)
	}
}

func TestWhatCannotBeKnownIs503AlsoWhereNoSessionIsNeeded(t *testing.T) {
	away, err := trustlayer.New(filepath.Join(t.TempDir(), "nobody"))
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	made, err := guard.New(away, guard.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, policy := range []guard.Policy{{}, {Session: guard.Optional}} {
		got := get(t, serve(t, made.HTTP(policy, whoami)), "Cookie", cookie())
		got.is(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		if got.header.Get("Retry-After") != "1" || strings.Contains(got.body, "nobody") {
			t.Errorf("got %v %q", got.header, got.body)
		}
	}
}

// failing is for errors that are none of the client's.
type failing struct{ err error }

func (f failing) Validate(context.Context, *trustlayerv1.ValidateRequest) (*trustlayer.Answer, error) {
	return nil, f.err
}

func TestNoErrorWhateverItIsLetsAnybodyPass(t *testing.T) {
	for _, err := range []error{context.Canceled, errors.New("sess_secret"), &trustlayer.DeniedError{Reason: 4711}} {
		made, newErr := guard.New(failing{err}, guard.Options{})
		if newErr != nil {
			t.Fatal(newErr)
		}
		got := get(t, serve(t, made.HTTP(guard.Policy{}, whoami)), "Cookie", cookie())
		if got.status < 400 || strings.Contains(got.body, "sess_") {
			t.Errorf("%v: got %d %q", err, got.status, got.body)
		}
	}
}

func TestAnAppAnswersRefusalsItsOwnWay(t *testing.T) {
	made := newGuard(t, guard.Options{OnRefused: func(w http.ResponseWriter, r *http.Request, refusal *guard.Refusal) {
		if refusal.Code == codes.Unauthenticated {
			w.Header().Set("X-Reason", refusal.Reason)
		}
		w.WriteHeader(http.StatusTeapot)
	}})
	got := get(t, serve(t, made.HTTP(guard.Policy{}, whoami)))
	if got.status != http.StatusTeapot || got.header.Get("X-Reason") != "SESSION_MISSING" {
		t.Errorf("got %+v", got)
	}
}

func TestAGuardThatWouldTrustEverybodyIsNotMade(t *testing.T) {
	for _, options := range []guard.Options{
		{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}},
		{TrustedProxies: []netip.Prefix{{}}},
		{SessionIDFrom: []guard.Source{{}}},
	} {
		if _, err := guard.New(client, options); err == nil {
			t.Errorf("made of %+v", options)
		}
	}
	if _, err := guard.New(nil, guard.Options{}); err == nil {
		t.Error("made of no validator")
	}
}
