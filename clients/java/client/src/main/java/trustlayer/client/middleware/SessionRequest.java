package trustlayer.client.middleware;

import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletRequestWrapper;
import java.security.Principal;
import trustlayer.v1.Session;

/** A request that passed: it knows its user. */
final class SessionRequest extends HttpServletRequestWrapper {
    private final SessionPrincipal principal;

    SessionRequest(HttpServletRequest request, Session session) {
        super(request);
        principal = new SessionPrincipal(session);
    }

    @Override
    public Principal getUserPrincipal() {
        return principal;
    }

    @Override
    public String getRemoteUser() {
        return principal.getName();
    }

    @Override
    public boolean isUserInRole(String role) {
        return principal.session().getUser().getRolesList().contains(role);
    }
}
