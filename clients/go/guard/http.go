package guard

import (
	"net/http"

	trustlayer "trustlayer/clients/go"
)

// HTTP wraps a handler: requests that the policy does not let pass never reach it. It panics at a policy that is never
// meant: one that needs no session, and asks for a mode, a route or roles.
func (g *Guard) HTTP(policy Policy, next http.Handler) http.Handler {
	policy.must()
	return &guarded{guard: g, policy: policy, next: next}
}

// guarded is a handler behind a guard.
type guarded struct {
	guard  *Guard
	policy Policy
	next   http.Handler
}

func (h *guarded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	session, refusal := h.guard.decide(r.Context(), httpRequest(r), h.policy)
	if refusal != nil {
		h.guard.onRefused(w, r, refusal)
		return
	}
	if session != nil {
		r = r.WithContext(trustlayer.NewContext(r.Context(), session))
	}
	h.next.ServeHTTP(w, r)
}

func httpRequest(r *http.Request) request {
	return request{lines: r.Header.Values, peer: r.RemoteAddr}
}

// Mux is an http.ServeMux whose routes each have a policy. What matches no route needs a session as well, so that it
// says nothing to strangers of what is there. So does what http.ServeMux redirects by itself, from `/tree` to `/tree/`
// or from `//tree` to `/tree`: where strangers may follow, register `/tree` too.
type Mux struct {
	guard *Guard
	mux   http.ServeMux
}

// NewMux makes a mux without routes.
func (g *Guard) NewMux() *Mux { return &Mux{guard: g} }

// Handle registers a handler for a pattern of http.ServeMux. It panics as that does, and as HTTP does.
func (m *Mux) Handle(pattern string, policy Policy, handler http.Handler) {
	m.mux.Handle(pattern, m.guard.HTTP(policy, handler))
}

// HandleFunc is Handle for a function.
func (m *Mux) HandleFunc(pattern string, policy Policy, handler http.HandlerFunc) {
	m.Handle(pattern, policy, handler)
}

// ServeHTTP serves a request by the route that covers it.
func (m *Mux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	handler, _ := m.mux.Handler(r)
	if _, isRoute := handler.(*guarded); !isRoute {
		m.guard.HTTP(Policy{}, &m.mux).ServeHTTP(w, r)
		return
	}
	m.mux.ServeHTTP(w, r)
}
