package guard

import (
	"errors"
	"fmt"
	"slices"

	"trustlayer/clients/go/trustlayerv1"
)

// Need says whether a request needs an active session.
type Need int

const (
	// Required is the default: without an active session nobody passes.
	Required Need = iota
	// Optional lets pass without a session as well. Whoever sends one is told apart, and "cannot know" is an error:
	// whoever logged in would be taken for nobody.
	Optional
	// None looks at no session.
	None
)

// Policy is what a route asks of a request. Its zero value asks for an active session in the sidecar's default mode.
type Policy struct {
	// Session says whether an active session is needed.
	Session Need
	// Mode says how much of the request context is compared, at least.
	Mode trustlayerv1.ValidationMode
	// Route names a rule of the sidecar's configuration, which is checked as well.
	Route string
	// RolesAll are all needed; compared after the sidecar has said yes.
	RolesAll []string
	// RolesAny are those of which one is needed; nil: none is. Compared after the sidecar has said yes.
	RolesAny []string
}

// check finds what is never meant: a route that refuses some users and lets whoever drops the cookie pass.
func (p Policy) check() error {
	asks := p.Mode != trustlayerv1.ValidationMode_VALIDATION_MODE_UNSPECIFIED || p.Route != "" || len(p.RolesAll) > 0 || p.RolesAny != nil
	switch {
	case p.Session < Required || p.Session > None:
		return fmt.Errorf("guard: %d is none of Required, Optional, None", p.Session)
	case p.Session != Required && asks:
		return errors.New("guard: a policy that asks for a mode, a route or roles needs a session: it is Required")
	case p.RolesAny != nil && len(p.RolesAny) == 0:
		return errors.New("guard: nobody has one of no roles: RolesAny is empty")
	default:
		return nil
	}
}

// must panics at a policy that is never meant, as http.ServeMux does at a pattern: when the server is built.
func (p Policy) must() {
	if err := p.check(); err != nil {
		panic(err)
	}
}

func (p Policy) allows(user *trustlayerv1.User) bool {
	for _, role := range p.RolesAll {
		if !slices.Contains(user.GetRoles(), role) {
			return false
		}
	}
	return p.RolesAny == nil || slices.ContainsFunc(p.RolesAny, func(role string) bool { return slices.Contains(user.GetRoles(), role) })
}
