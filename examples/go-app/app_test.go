package main

import (
	"bufio"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"trustlayer/clients/go/pairtest"
)

var (
	pair   *pairtest.Pair
	origin string
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

// runAll runs Flowless, a sidecar, and the app as its own program.
func runAll(m *testing.M) int {
	directory, err := os.MkdirTemp("", "tl-go-app-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(directory)
	program := filepath.Join(directory, "go-app")
	if said, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		panic(string(said))
	}
	var app *exec.Cmd
	code := pairtest.Run(m, func(started *pairtest.Pair) {
		pair = started
		app = exec.Command(program)
		app.Env = append(os.Environ(), "TRUSTLAYER_SOCKET="+pair.Socket, "APP_LISTEN=127.0.0.1:0")
		app.Stderr = os.Stderr
		output, err := app.StdoutPipe()
		if err != nil {
			panic(err)
		}
		if err := app.Start(); err != nil {
			panic(err)
		}
		line, err := bufio.NewReader(output).ReadString('\n')
		if err != nil {
			panic(err)
		}
		origin = "http://" + strings.TrimSpace(strings.TrimPrefix(line, "go-app listening on "))
	}, "--role", "admin")
	if app != nil {
		app.Process.Signal(syscall.SIGTERM)
		if err := app.Wait(); err != nil {
			panic(err)
		}
	}
	return code
}

// browser keeps cookies, also Secure ones: browsers count this host as safe, net/http's jar does not.
type browser struct {
	t       *testing.T
	agent   string
	cookies map[string]*http.Cookie
}

func newBrowser(t *testing.T, agent string) *browser {
	return &browser{t: t, agent: agent, cookies: map[string]*http.Cookie{}}
}

// page is what came of a request; nothing is followed.
type page struct {
	status   int
	location string
	text     string
}

func (b *browser) get(path string) page { return b.send(http.MethodGet, path, nil, "same-origin") }

func (b *browser) post(path string, form url.Values) page {
	return b.send(http.MethodPost, path, form, "same-origin")
}

func (b *browser) send(method, path string, form url.Values, site string) page {
	b.t.Helper()
	request, err := http.NewRequestWithContext(b.t.Context(), method, origin+path, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("User-Agent", b.agent)
	if site != "" {
		request.Header.Set("Sec-Fetch-Site", site)
	}
	for _, cookie := range b.cookies {
		request.AddCookie(cookie)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	for _, cookie := range response.Cookies() {
		if !cookie.HttpOnly || !cookie.Secure || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" {
			b.t.Errorf("a cookie that is not kept to itself: %s", cookie.Name)
		}
		if b.cookies[cookie.Name] = cookie; cookie.MaxAge < 0 {
			delete(b.cookies, cookie.Name)
		}
	}
	if response.Header.Get("Cache-Control") != "no-store" && response.StatusCode != http.StatusForbidden {
		b.t.Errorf("%s may be cached", path)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return page{status: response.StatusCode, location: response.Header.Get("Location"), text: string(text)}
}

func (b *browser) logIn(login, password string) page {
	return b.post("/login", url.Values{"login": {login}, "password": {password}})
}

// is compares a page with what it holds, a redirect with where it leads.
func (p page) is(t *testing.T, status int, holds string) {
	t.Helper()
	good := strings.Contains(p.text, holds)
	if status == http.StatusSeeOther {
		good = p.location == holds
	}
	if p.status != status || !good {
		t.Errorf("got %d %s %s, not %d with %q", p.status, p.location, p.text, status, holds)
	}
}

func TestWhoLogsOutEverywhereElseStaysAndTheOthersAreThrownOutAtOnce(t *testing.T) {
	first, second := newBrowser(t, "first"), newBrowser(t, "second")
	for _, b := range []*browser{first, second} {
		b.get("/").is(t, http.StatusSeeOther, "/login")
		b.get("/login").is(t, http.StatusOK, "Log in")
		b.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
		b.get("/").is(t, http.StatusOK, "Logged in as Ada.")
	}
	first.get("/").is(t, http.StatusOK, "<td>first (this one)</td><td>127.0.0.1</td>")
	first.get("/").is(t, http.StatusOK, "<td>second</td>")

	first.post("/logout-elsewhere", nil).is(t, http.StatusSeeOther, "/")
	second.get("/").is(t, http.StatusSeeOther, "/login")
	left := first.get("/")
	left.is(t, http.StatusOK, "first (this one)")
	if strings.Contains(left.text, "second") {
		t.Errorf("still listed: %s", left.text)
	}

	stolen := *first.cookies[sessionCookie]
	first.post("/logout", nil).is(t, http.StatusSeeOther, "/login")
	if first.cookies[sessionCookie] != nil {
		t.Error("the cookie outlives the session")
	}
	first.cookies[sessionCookie] = &stolen
	first.get("/").is(t, http.StatusSeeOther, "/login")
}

func TestTheAdminPageNeedsTheRoleAndTheBrowserOfTheLogin(t *testing.T) {
	admin, reader := newBrowser(t, "admin's"), newBrowser(t, "reader's")
	admin.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	admin.get("/admin").is(t, http.StatusOK, "Lease held")
	reader.logIn(pair.OtherLogin, pair.Password).is(t, http.StatusSeeOther, "/")
	reader.get("/").is(t, http.StatusOK, "Logged in as Grace.")
	reader.get("/admin").is(t, http.StatusForbidden, "not for you")

	// Another browser with the same session id: good for the list, not for this page.
	thief := newBrowser(t, "thief's")
	thief.cookies[sessionCookie] = admin.cookies[sessionCookie]
	thief.get("/").is(t, http.StatusOK, "Logged in as Ada.")
	thief.get("/admin").is(t, http.StatusSeeOther, "/login")
	thief.agent = admin.agent
	thief.get("/admin").is(t, http.StatusSeeOther, "/login")
	admin.get("/admin").is(t, http.StatusOK, "Lease held")
}

func TestAnotherSitesFormChangesNothing(t *testing.T) {
	victim := newBrowser(t, "victim's")
	victim.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	for _, path := range []string{"/logout", "/logout-elsewhere", "/login"} {
		for _, site := range []string{"cross-site", "same-site", ""} {
			if got := victim.send(http.MethodPost, path, nil, site); got.status != http.StatusForbidden {
				t.Errorf("%s from %q: got %d", path, site, got.status)
			}
		}
	}
	victim.get("/").is(t, http.StatusOK, "victim")
}

func TestWhoeverIsDeniedLogsOutAllTheSame(t *testing.T) {
	b := newBrowser(t, "moved")
	b.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	for _, sent := range []string{b.cookies[sessionCookie].Value, "sess_x", ""} {
		b.cookies[sessionCookie] = &http.Cookie{Name: sessionCookie, Value: sent}
		b.post("/logout", nil).is(t, http.StatusSeeOther, "/login")
		if b.cookies[sessionCookie] != nil {
			t.Errorf("%.4q outlives the logout", sent)
		}
		b.post("/logout", nil).is(t, http.StatusSeeOther, "/login")
	}

	b.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	ended := *b.cookies[sessionCookie]
	b.post("/logout", nil).is(t, http.StatusSeeOther, "/login")
	b.cookies[sessionCookie] = &ended
	b.get("/").is(t, http.StatusSeeOther, "/login")
	b.post("/logout", nil).is(t, http.StatusSeeOther, "/login")
	if b.cookies[sessionCookie] != nil {
		t.Error("the cookie of a session that has ended stays")
	}
}

func TestWhoLogsInAgainLeavesNoSessionBehind(t *testing.T) {
	b := newBrowser(t, "again")
	b.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	before := *b.cookies[sessionCookie]
	b.logIn(pair.OtherLogin, pair.Password).is(t, http.StatusSeeOther, "/")
	b.get("/").is(t, http.StatusOK, "Logged in as Grace.")
	b.cookies[sessionCookie] = &before
	b.get("/").is(t, http.StatusSeeOther, "/login")
}

func TestAWrongPasswordSaysNotWhatIsWrong(t *testing.T) {
	b := newBrowser(t, "guesser's")
	wrong, unknown := b.logIn(pair.Login, "guess"), b.logIn("nobody@example.org", "guess")
	wrong.is(t, http.StatusUnauthorized, "not a user of ours")
	if wrong != unknown {
		t.Error("the answers tell a user from nobody")
	}
	b.get("/").is(t, http.StatusSeeOther, "/login")
}

func TestASidecarThatIsAwayLogsNobodyOut(t *testing.T) {
	b := newBrowser(t, "patient")
	b.logIn(pair.Login, pair.Password).is(t, http.StatusSeeOther, "/")
	pair.MustDo(t, "stop-sidecar")
	b.get("/").is(t, http.StatusServiceUnavailable, "Try again")
	b.logIn(pair.Login, pair.Password).is(t, http.StatusServiceUnavailable, "Try again")
	b.post("/logout", nil).is(t, http.StatusServiceUnavailable, "Try again")
	pair.MustDo(t, "start-sidecar")
	back := time.Now()
	for b.get("/").status != http.StatusOK {
		if time.Since(back) > 2*time.Second {
			t.Fatal("not there again")
		}
	}
}
