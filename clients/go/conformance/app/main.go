// The app of the middleware cases on net/http: `app PORT`.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	trustlayer "trustlayer/clients/go"
	"trustlayer/clients/go/guard"
	"trustlayer/clients/go/trustlayerv1"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func run() error {
	client, err := trustlayer.New(os.Getenv("APP_SIDECAR_SOCKET"), trustlayer.WithValidateTimeout(10*time.Second))
	if err != nil {
		return err
	}
	made, err := guard.New(client, guard.Options{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.9/32")}})
	if err != nil {
		return err
	}
	mux := made.NewMux()
	for path, policy := range map[string]guard.Policy{
		"/whoami": {},
		"/public": {Session: guard.None},
		"/maybe":  {Session: guard.Optional},
		"/admin":  {Mode: trustlayerv1.ValidationMode_VALIDATION_MODE_STRICT, RolesAny: []string{"admin"}},
		"/both":   {RolesAll: []string{"reader", "admin"}},
		"/either": {RolesAny: []string{"reader", "admin"}},
		"/fresh":  {Route: "payments"},
		"/named":  {Route: "no-such-rule"},
		"/wrong":  {Route: strings.Repeat("x", 129)},
	} {
		mux.HandleFunc("GET "+path, policy, show)
	}
	return http.ListenAndServe(net.JoinHostPort("127.0.0.1", os.Args[1]), mux)
}

// show answers with the address of the session's user, or with null.
func show(w http.ResponseWriter, r *http.Request) {
	var email *string
	if session := trustlayer.SessionFrom(r.Context()); session != nil {
		email = &session.GetUser().Email
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]*string{"email": email})
}
