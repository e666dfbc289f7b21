package trustlayer

import (
	"context"

	"trustlayer/clients/go/trustlayerv1"
)

type sessionKey struct{}

// NewContext returns a context that carries the session of the request which it belongs to.
func NewContext(ctx context.Context, session *trustlayerv1.Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, session)
}

// SessionFrom returns the session that a guard put into the context; nil where the request has none. What it
// returns belongs to all who have the context: do not change it.
func SessionFrom(ctx context.Context) *trustlayerv1.Session {
	session, _ := ctx.Value(sessionKey{}).(*trustlayerv1.Session)
	return session
}
