package trustlayer.client.middleware;

import java.security.Principal;
import trustlayer.v1.Session;

/**
 * Whose request it is.
 *
 * @param session the session that the sidecar said yes to
 */
public record SessionPrincipal(Session session) implements Principal {
    /**
     * Name the user.
     *
     * @return the user's id
     */
    @Override
    public String getName() {
        return session.getUser().getId();
    }
}
