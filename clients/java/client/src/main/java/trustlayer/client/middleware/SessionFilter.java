package trustlayer.client.middleware;

import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.Cookie;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.function.Function;
import java.util.stream.Stream;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.RequestContext;

/**
 * Lets only requests with a session pass, on all paths that it is mapped to, unless a path says otherwise.
 *
 * <p>The session is the request's principal: {@code getUserPrincipal()} is a {@link SessionPrincipal}, and {@code
 * isUserInRole} knows the user's roles. Who does not pass gets 401, 403 or 503 with a body of JSON.
 */
public final class SessionFilter implements Filter {
    private final Gate gate;
    private final Function<HttpServletRequest, SessionIds> ids;
    private final ClientAddress addresses;
    private final Function<HttpServletRequest, String> device;
    private final Map<String, Requirement> paths;
    private final Requirement elsewhere;

    private SessionFilter(Builder made) {
        gate = new Gate(made.client);
        String cookie = made.cookie;
        ids = cookie.isEmpty() ? SessionFilter::bearer : request -> cookie(request, cookie);
        addresses = new ClientAddress(made.trustedProxies);
        device = made.device;
        paths = Map.copyOf(made.paths);
        elsewhere = made.elsewhere;
    }

    /**
     * Begin a filter that asks for a session everywhere, taken from the cookie {@code session_id}.
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
        Requirement requirement = requirement(http);
        if (!requirement.needsSession()) {
            chain.doFilter(request, response);
            return;
        }
        Gate.Decision decision = gate.decide(requirement, ids.apply(http), context(http));
        if (decision.refusal() != null) {
            refuse(answer, decision.refusal());
        } else {
            chain.doFilter(new SessionRequest(http, decision.session()), response);
        }
    }

    /** Compare what the container made of the path, which is what the app is reached by. */
    private Requirement requirement(HttpServletRequest request) {
        String path = Stream.of(request.getServletPath(), request.getPathInfo())
                .filter(part -> part != null)
                .reduce("", String::concat);
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
        List<String> agents = headers(request, "User-Agent");
        return Gate.context(clientIp, device.apply(request), agents.size() == 1 ? agents.get(0) : "");
    }

    private static SessionIds bearer(HttpServletRequest request) {
        return SessionIds.ofAuthorization(headers(request, "Authorization"));
    }

    private static SessionIds cookie(HttpServletRequest request, String name) {
        return SessionIds.of(Stream.ofNullable(request.getCookies())
                .flatMap(Stream::of)
                .filter(cookie -> cookie.getName().equals(name))
                .map(Cookie::getValue)
                .toList());
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
            case FORBIDDEN -> {}
        }
        response.setContentType("application/json");
        response.getOutputStream().write(refusal.json().getBytes(StandardCharsets.US_ASCII));
    }

    /** Says what a filter does. */
    public static final class Builder {
        private final TrustLayerClient client;
        private String cookie = "session_id";
        private List<String> trustedProxies = List.of();
        private Function<HttpServletRequest, String> device = request -> "";
        private final Map<String, Requirement> paths = new TreeMap<>();
        private Requirement elsewhere = Requirement.session();

        private Builder(TrustLayerClient client) {
            this.client = client;
        }

        /**
         * Take the session id from another cookie than {@code session_id}.
         *
         * @param name of the cookie
         * @return this
         */
        public Builder cookie(String name) {
            if (name.isEmpty()) {
                throw new IllegalArgumentException("a cookie has a name");
            }
            cookie = name;
            return this;
        }

        /**
         * Take the session id from {@code Authorization: Bearer} instead of a cookie.
         *
         * @return this
         */
        public Builder bearer() {
            cookie = "";
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
         * Say how the fingerprint of a request's device is found, for the modes that compare it.
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
         * longest.
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
