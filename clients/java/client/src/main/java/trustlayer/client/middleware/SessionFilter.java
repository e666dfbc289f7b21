package trustlayer.client.middleware;

import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.stream.Stream;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.RequestContext;
import trustlayer.v1.Session;

/**
 * Lets only requests with a session pass, on all paths that it is mapped to, unless a path says otherwise.
 *
 * <p>The session is the request's principal: {@code getUserPrincipal()} is a {@link SessionPrincipal}, and {@code
 * isUserInRole} knows the user's roles. Who does not pass gets 401, 403 or 503 (500 where the app asked a wrong
 * question) with a body of JSON.
 */
public final class SessionFilter implements Filter {
    private final Gate gate;
    private final List<Function<HttpServletRequest, SessionIds>> places;
    private final ClientAddress addresses;
    private final Function<HttpServletRequest, String> device;
    private final Map<String, Requirement> paths;
    private final Requirement elsewhere;

    private SessionFilter(Builder made) {
        gate = new Gate(made.client);
        places =
                made.places.isEmpty() ? List.of(cookie("session_id"), SessionFilter::bearer) : List.copyOf(made.places);
        addresses = new ClientAddress(made.trustedProxies);
        device = made.device;
        paths = Map.copyOf(made.paths);
        elsewhere = made.elsewhere;
    }

    /**
     * Begin a filter that asks for a session everywhere, taken from the cookie {@code session_id}, then from {@code
     * Authorization: Bearer}.
     *
     * @param client whom it asks; it is not closed with the filter
     * @return what a filter is made with
     */
    public static Builder builder(TrustLayerClient client) {
        return new Builder(client);
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        if (!(request instanceof HttpServletRequest http) || !(response instanceof HttpServletResponse answer)) {
            throw new ServletException("only HTTP can be let pass");
        }
        Session session = null;
        for (Requirement requirement : requirements(http)) {
            Gate.Decision decision = gate.decide(requirement, ids(http), context(http));
            if (decision.refusal() != null) {
                refuse(answer, decision.refusal());
                return;
            }
            session = decision.session() == null ? session : decision.session();
        }
        chain.doFilter(session == null ? request : new SessionRequest(http, session), response);
    }

    /**
     * Find what has to be met, by what the container made of the path, which is what the app is reached by. Frameworks may
     * serve {@code /admin} as {@code /admin/} too: what is asked for at the one is asked for at the other as well.
     */
    private List<Requirement> requirements(HttpServletRequest request) {
        String path = Stream.of(request.getServletPath(), request.getPathInfo())
                .filter(part -> part != null)
                .reduce("", String::concat);
        String twin = path.endsWith("/") ? path.replaceFirst("/+$", "") : path + "/";
        return Stream.of(requirement(path), paths.get(twin))
                .filter(found -> found != null)
                .distinct()
                .toList();
    }

    private Requirement requirement(String path) {
        Requirement exact = paths.get(path);
        if (exact != null) {
            return exact;
        }
        for (String prefix = path; ; prefix = prefix.substring(0, prefix.lastIndexOf('/'))) {
            Requirement below = paths.get(prefix + "/*");
            if (below != null) {
                return below;
            }
            if (prefix.lastIndexOf('/') < 0) {
                return elsewhere;
            }
        }
    }

    private RequestContext context(HttpServletRequest request) {
        String clientIp = addresses.find(request.getRemoteAddr(), headers(request, "X-Forwarded-For"));
        return Gate.context(clientIp, device.apply(request), only(headers(request, "User-Agent")));
    }

    /** Read the first place in which anything was sent. */
    private SessionIds ids(HttpServletRequest request) {
        return places.stream()
                .map(place -> place.apply(request))
                .filter(ids -> !ids.isEmpty())
                .findFirst()
                .orElse(SessionIds.of(List.of()));
    }

    private static String only(List<String> sent) {
        return sent.size() == 1 ? sent.get(0) : "";
    }

    private static SessionIds bearer(HttpServletRequest request) {
        return SessionIds.ofAuthorization(headers(request, "Authorization"));
    }

    private static Function<HttpServletRequest, SessionIds> cookie(String name) {
        return request -> SessionIds.ofCookies(headers(request, "Cookie"), name);
    }

    private static List<String> headers(HttpServletRequest request, String name) {
        return Collections.list(request.getHeaders(name));
    }

    private static void refuse(HttpServletResponse response, Refusal refusal) throws IOException {
        response.setStatus(refusal.kind().status);
        response.setHeader("Cache-Control", "no-store");
        switch (refusal.kind()) {
            case UNAUTHENTICATED -> response.setHeader("WWW-Authenticate", refusal.challenge());
            case UNAVAILABLE -> response.setHeader("Retry-After", Long.toString(refusal.retryAfterSeconds()));
            case FORBIDDEN, INTERNAL -> {}
        }
        response.setContentType("application/json");
        response.getOutputStream().write(refusal.json().getBytes(StandardCharsets.US_ASCII));
    }

    /** Says what a filter does. */
    public static final class Builder {
        private final TrustLayerClient client;
        private final List<Function<HttpServletRequest, SessionIds>> places = new ArrayList<>();
        private List<String> trustedProxies = List.of();
        private Function<HttpServletRequest, String> device = request -> only(headers(request, "X-Device-Fingerprint"));
        private final Map<String, Requirement> paths = new TreeMap<>();
        private Requirement elsewhere = Requirement.session();

        private Builder(TrustLayerClient client) {
            this.client = client;
        }

        /**
         * Take the session id from this cookie. With {@link #bearer} as well, they are looked at in the order of the
         * calls, and the first in which anything was sent counts.
         *
         * @param name of the cookie
         * @return this
         */
        public Builder cookie(String name) {
            if (name.isEmpty()) {
                throw new IllegalArgumentException("a cookie has a name");
            }
            places.add(SessionFilter.cookie(name));
            return this;
        }

        /**
         * Take the session id from {@code Authorization: Bearer}; without {@link #cookie}, from nowhere else.
         *
         * @return this
         */
        public Builder bearer() {
            places.add(SessionFilter::bearer);
            return this;
        }

        /**
         * Believe what these say in X-Forwarded-For.
         *
         * @param networks addresses or networks, for example {@code 10.0.0.0/8}
         * @return this
         * @throws IllegalArgumentException one of them is neither
         */
        public Builder trustedProxies(String... networks) {
            trustedProxies = List.of(networks);
            return this;
        }

        /**
         * Say how the fingerprint of a request's device is found, for the modes that compare it. It comes from the header
         * {@code X-Device-Fingerprint} otherwise.
         *
         * @param of empty where there is none
         * @return this
         */
        public Builder deviceFingerprint(Function<HttpServletRequest, String> of) {
            device = of;
            return this;
        }

        /**
         * Ask for something else on a path. An exact path counts before those that end with {@code /*}, and of these the
         * longest. Where {@code /admin} is named, {@code /admin/} has to meet that as well.
         *
         * @param path within the context: {@code /health}, or {@code /admin/*} for a path and all below it
         * @param requirement what is asked for there
         * @return this
         */
        public Builder path(String path, Requirement requirement) {
            boolean rest = path.endsWith("/*");
            if (!path.startsWith("/") || path.indexOf('*') != (rest ? path.length() - 1 : -1)) {
                throw new IllegalArgumentException("neither /a/path nor /a/path/*: " + path);
            }
            paths.put(path, requirement);
            return this;
        }

        /**
         * Ask for something else than a session on all paths that are not named.
         *
         * @param requirement what is asked for there
         * @return this
         */
        public Builder elsewhere(Requirement requirement) {
            elsewhere = requirement;
            return this;
        }

        /**
         * Make the filter.
         *
         * @return a filter to map to paths
         */
        public SessionFilter build() {
            return new SessionFilter(this);
        }
    }
}
