package guard

import (
	"net/http"

	trustlayer "trustlayer/clients/go"
)

// HTTP wraps a handler: requests that the policy does not let pass never reach it.
func (g *Guard) HTTP(policy Policy, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, refusal := g.decide(r.Context(), httpRequest(r), policy)
		if refusal != nil {
			g.onRefused(w, r, refusal)
			return
		}
		if session != nil {
			r = r.WithContext(trustlayer.NewContext(r.Context(), session))
		}
		next.ServeHTTP(w, r)
	})
}

func httpRequest(r *http.Request) request {
	return request{lines: r.Header.Values, peer: r.RemoteAddr}
}

// Mux is an http.ServeMux whose routes each have a policy. What matches no route needs a session as well, so that it
// says nothing to strangers of what is there.
type Mux struct {
	guard *Guard
	mux   http.ServeMux
}

// NewMux makes a mux without routes.
func (g *Guard) NewMux() *Mux { return &Mux{guard: g} }

// Handle registers a handler for a pattern of http.ServeMux.
func (m *Mux) Handle(pattern string, policy Policy, handler http.Handler) {
	m.mux.Handle(pattern, m.guard.HTTP(policy, handler))
}

// HandleFunc is Handle for a function.
func (m *Mux) HandleFunc(pattern string, policy Policy, handler http.HandlerFunc) {
	m.Handle(pattern, policy, handler)
}

// ServeHTTP serves a request by the route that covers it.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := m.mux.Handler(r); pattern == "" {
		m.guard.HTTP(Policy{}, &m.mux).ServeHTTP(w, r)
		return
	}
	m.mux.ServeHTTP(w, r)
}
