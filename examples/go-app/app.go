package main

import (
	"net/http"
	"net/netip"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/guard"
	"trustlayer/clients/go/trustlayerv1"
)

// app is the pages. It holds no secret and no session.
type app struct {
	client *trustlayer.Client
	guard  *guard.Guard
}

// newApp says which page asks for what. A page that is not named here needs a session.
func newApp(client *trustlayer.Client, proxies []netip.Prefix) (http.Handler, error) {
	a := &app{client: client}
	var err error
	a.guard, err = guard.New(client, guard.Options{
		SessionIDFrom:           []guard.Source{guard.Cookie(sessionCookie)},
		TrustedProxies:          proxies,
		DeviceFingerprintHeader: deviceHeader,
		OnRefused:               showRefusal,
	})
	if err != nil {
		return nil, err
	}
	anybody, user := guard.Policy{Session: guard.None}, guard.Policy{}
	admin := guard.Policy{
		Mode:     trustlayerv1.ValidationMode_VALIDATION_MODE_STRICT,
		RolesAll: []string{"admin"},
	}
	mux := a.guard.NewMux()
	mux.HandleFunc("GET /login", anybody, a.showLogin)
	mux.HandleFunc("POST /login", anybody, a.logIn)
	mux.HandleFunc("GET /{$}", user, a.showDevices)
	// Who is denied, or cannot be known, may leave all the same.
	mux.HandleFunc("POST /logout", anybody, a.logOut)
	mux.HandleFunc("POST /logout-elsewhere", user, a.logOutElsewhere)
	mux.HandleFunc("GET /admin", admin, a.showAdmin)
	// No page of another site changes anything: http.CrossOriginProtection goes by Sec-Fetch-Site and Origin, which
	// browsers send and pages cannot forge. SameSite cookies are the second lock on that door.
	return withOrigin(http.NewCrossOriginProtection().Handler(withHeaders(withDevice(mux)))), nil
}

// withOrigin refuses forms that say nothing of where they come from. http.CrossOriginProtection lets them pass for the
// sake of programs, which have no use for these pages.
func withOrigin(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Method == http.MethodOptions
		if !reads && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
			http.Error(w, "a form that does not say which site it is of", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// withHeaders keeps pages out of caches and frames, and lets them load nothing.
func withHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
		header.Set("Referrer-Policy", "same-origin")
		header.Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, mostForm)
		next.ServeHTTP(w, r)
	})
}

// mostForm bounds the body of a request, in bytes.
const mostForm = 16 << 10
