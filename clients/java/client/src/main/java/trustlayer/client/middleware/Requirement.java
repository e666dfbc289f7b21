package trustlayer.client.middleware;

import java.util.Set;
import trustlayer.v1.Session;
import trustlayer.v1.ValidationMode;

/**
 * What a route asks for. Immutable: {@code Requirement.session().mode(...).roles("admin")}.
 *
 * @param needsSession whether there has to be one at all
 * @param mode how much of the request context is checked; unspecified: what the sidecar's rules say
 * @param route name of a rule of the sidecar's configuration; empty: none
 * @param roles all of them have to be the user's
 */
public record Requirement(boolean needsSession, ValidationMode mode, String route, Set<String> roles) {
    /**
     * Ask for a session.
     *
     * @return that requirement, without more
     */
    public static Requirement session() {
        return new Requirement(true, ValidationMode.VALIDATION_MODE_UNSPECIFIED, "", Set.of());
    }

    /**
     * Ask for nothing: everybody may pass, and nobody is known.
     *
     * @return that requirement
     */
    public static Requirement nothing() {
        return new Requirement(false, ValidationMode.VALIDATION_MODE_UNSPECIFIED, "", Set.of());
    }

    /**
     * Check at least this much of the request context.
     *
     * @param stricter the mode
     * @return a requirement with it
     */
    public Requirement mode(ValidationMode stricter) {
        return new Requirement(needsSession, stricter, route, roles);
    }

    /**
     * Check what a rule of the sidecar's configuration asks for.
     *
     * @param rule its name
     * @return a requirement with it
     */
    public Requirement route(String rule) {
        return new Requirement(needsSession, mode, rule, roles);
    }

    /**
     * Let only users pass that have all of these roles.
     *
     * @param all their names
     * @return a requirement with them
     */
    public Requirement roles(String... all) {
        return new Requirement(needsSession, mode, route, Set.of(all));
    }

    boolean rolesAreOf(Session session) {
        return session.getUser().getRolesList().containsAll(roles);
    }
}
