package trustlayer.client.middleware;

import java.util.List;
import java.util.Set;
import trustlayer.v1.Session;
import trustlayer.v1.ValidationMode;

/**
 * What a route asks for. Immutable: {@code Requirement.session().mode(...).rolesAll("admin")}.
 *
 * @param need whether there has to be a session at all
 * @param mode how much of the request context is checked; unspecified: what the sidecar's rules say
 * @param route name of a rule of the sidecar's configuration; empty: none
 * @param rolesAll all of them have to be the user's
 * @param rolesAny one of them has to be the user's; empty: none has to
 */
public record Requirement(Need need, ValidationMode mode, String route, Set<String> rolesAll, Set<String> rolesAny) {
    /** Whether there has to be a session. */
    public enum Need {
        /** Everybody passes, and nobody is known. */
        NOTHING,
        /** Everybody passes, and who has a session is known. */
        OPTIONAL,
        /** Only who has a session passes. */
        SESSION
    }

    /**
     * Refuse what would let a stranger pass where a user is refused.
     *
     * @param need whether there has to be a session at all
     * @param mode how much of the request context is checked
     * @param route name of a rule of the sidecar's configuration; empty: none
     * @param rolesAll all of them have to be the user's
     * @param rolesAny one of them has to be the user's; empty: none has to
     * @throws IllegalArgumentException a mode, a rule or roles are asked for where no session has to be
     */
    public Requirement {
        boolean asksMore = mode != ValidationMode.VALIDATION_MODE_UNSPECIFIED
                || !route.isEmpty()
                || !rolesAll.isEmpty()
                || !rolesAny.isEmpty();
        if (need != Need.SESSION && asksMore) {
            throw new IllegalArgumentException("a mode, a rule or roles need a session: who has none would pass");
        }
    }

    /**
     * Ask for a session.
     *
     * @return that requirement, without more
     */
    public static Requirement session() {
        return new Requirement(Need.SESSION, ValidationMode.VALIDATION_MODE_UNSPECIFIED, "", Set.of(), Set.of());
    }

    /**
     * Ask for nothing: everybody may pass, and nobody is known.
     *
     * @return that requirement
     */
    public static Requirement nothing() {
        return new Requirement(Need.NOTHING, ValidationMode.VALIDATION_MODE_UNSPECIFIED, "", Set.of(), Set.of());
    }

    /**
     * Let everybody pass, as nobody who has no session or one that is denied. Where it cannot be known, nobody passes.
     *
     * @return that requirement, which takes no mode, rule or roles
     */
    public static Requirement optional() {
        return new Requirement(Need.OPTIONAL, ValidationMode.VALIDATION_MODE_UNSPECIFIED, "", Set.of(), Set.of());
    }

    /**
     * Check at least this much of the request context.
     *
     * @param stricter the mode
     * @return a requirement with it
     */
    public Requirement mode(ValidationMode stricter) {
        return new Requirement(need, stricter, route, rolesAll, rolesAny);
    }

    /**
     * Check what a rule of the sidecar's configuration asks for.
     *
     * @param rule its name
     * @return a requirement with it
     */
    public Requirement route(String rule) {
        return new Requirement(need, mode, rule, rolesAll, rolesAny);
    }

    /**
     * Let only users pass that have all of these roles.
     *
     * @param all their names
     * @return a requirement with them
     */
    public Requirement rolesAll(String... all) {
        return new Requirement(need, mode, route, Set.of(all), rolesAny);
    }

    /**
     * Let only users pass that have one of these roles, beside all of {@link #rolesAll()}.
     *
     * @param any their names
     * @return a requirement with them
     * @throws IllegalArgumentException no role is named: nobody has one of none
     */
    public Requirement rolesAny(String... any) {
        if (any.length == 0) {
            throw new IllegalArgumentException("nobody has one of no roles: name one");
        }
        return new Requirement(need, mode, route, rolesAll, Set.of(any));
    }

    boolean rolesAreOf(Session session) {
        List<String> has = session.getUser().getRolesList();
        return has.containsAll(rolesAll) && (rolesAny.isEmpty() || has.stream().anyMatch(rolesAny::contains));
    }
}
