package guard

import (
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
	// Roles are all needed; compared after the sidecar has said yes.
	Roles []string
}

func (p Policy) allows(user *trustlayerv1.User) bool {
	for _, role := range p.Roles {
		if !slices.Contains(user.GetRoles(), role) {
			return false
		}
	}
	return true
}
