package trustlayer.client.middleware;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.ObjectMapper;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.EnumSet;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import trustlayer.client.Pair;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.GetStatusRequest;
import trustlayer.v1.ValidationMode;
import trustlayer.v1.ValidatorServiceGrpc;

/** Who gets through to the servlets of a real server, with a real sidecar. */
class SessionFilterTest {
    private static final HttpClient HTTP = HttpClient.newHttpClient();
    private static final Requirement STRICT = Requirement.session().mode(ValidationMode.VALIDATION_MODE_STRICT);

    private static Pair pair;
    private static TrustLayerClient client;
    private static Server server;
    private static int port;

    private static final class WhoAmI extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String user = request.getUserPrincipal() instanceof SessionPrincipal known
                    ? known.session().getUser().getName()
                    : "nobody";
            response.getWriter().print(user + " " + request.isUserInRole("reader"));
        }
    }

    @BeforeAll
    static void start() throws Exception {
        pair = new Pair();
        client = TrustLayerClient.open(pair.socket());
        client.call(
                ValidatorServiceGrpc.getGetStatusMethod(),
                GetStatusRequest.getDefaultInstance(),
                java.time.Duration.ofSeconds(60));
        SessionFilter filter = SessionFilter.builder(client)
                .path("/health", Requirement.nothing())
                .path("/strict/*", STRICT)
                .path("/admin/*", Requirement.session().rolesAll("admin"))
                .path("/admin/readers", Requirement.session().rolesAll("reader"))
                .path("/one-of", Requirement.session().rolesAny("admin", "reader"))
                .path("/none-of", Requirement.session().rolesAny("admin", "editor"))
                .path("/both", Requirement.session().rolesAny("reader").rolesAll("admin"))
                .path("/exact", Requirement.session().rolesAll("admin"))
                .path("/home", Requirement.optional())
                .path("/wrong", Requirement.session().route("no rule's name".repeat(1_000)))
                .path("/named", Requirement.session().route("no-such-rule"))
                .build();
        server = new Server();
        ServerConnector connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        server.addConnector(connector);
        ServletContextHandler context = new ServletContextHandler("/");
        context.addFilter(new FilterHolder(filter), "/*", EnumSet.of(DispatcherType.REQUEST));
        context.addServlet(new ServletHolder(new WhoAmI()), "/*");
        SessionFilter bearer = SessionFilter.builder(client)
                .bearer()
                .trustedProxies("127.0.0.0/8")
                .build();
        ServletContextHandler api = new ServletContextHandler("/api");
        api.addFilter(new FilterHolder(bearer), "/*", EnumSet.of(DispatcherType.REQUEST));
        api.addServlet(new ServletHolder(new WhoAmI()), "/*");
        server.setHandler(new org.eclipse.jetty.server.handler.ContextHandlerCollection(context, api));
        server.start();
        port = connector.getLocalPort();
    }

    @AfterAll
    static void end() throws Exception {
        server.stop();
        client.close();
        pair.close();
    }

    private static HttpResponse<String> get(String path, String... headers) throws Exception {
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + port + path))
                .header("User-Agent", pair.get("user_agent"));
        for (int index = 0; index < headers.length; index += 2) {
            request.header(headers[index], headers[index + 1]);
        }
        return HTTP.send(request.build(), HttpResponse.BodyHandlers.ofString());
    }

    private static String cookie() {
        return "session_id=" + pair.get("session_id");
    }

    private static void refused(int status, String reason, HttpResponse<String> answer) throws Exception {
        assertEquals(status, answer.statusCode(), answer.body());
        assertEquals(
                reason, new ObjectMapper().readTree(answer.body()).get("reason").asText());
        assertEquals("no-store", answer.headers().firstValue("Cache-Control").orElseThrow());
        assertEquals(
                status == 401, answer.headers().firstValue("WWW-Authenticate").isPresent());
        assertEquals(status == 503, answer.headers().firstValue("Retry-After").isPresent());
        assertTrue(!answer.body().contains(pair.get("session_id")));
    }

    @Test
    void whoHasASessionPassesAndIsKnown() throws Exception {
        HttpResponse<String> answer = get("/", "Cookie", "theme=dark; " + cookie());
        assertEquals("Ada true", answer.body());
        assertEquals(200, answer.statusCode());
    }

    @Test
    void whoHasNoneDoesNotPassButWhereTheAppSaysSo() throws Exception {
        refused(401, "SESSION_MISSING", get("/"));
        refused(401, "SESSION_MISSING", get("/health/more"));
        refused(401, "SESSION_MISSING", get("/health/"));
        refused(401, "SESSION_MISSING", get("/", "Authorization", "Basic " + pair.get("session_id")));
        assertEquals("nobody false", get("/health").body());
    }

    @Test
    void theCookieCountsBeforeTheBearer() throws Exception {
        String bearer = "Bearer " + pair.get("session_id");
        assertEquals("Ada true", get("/", "Authorization", bearer).body());
        refused(401, "MALFORMED", get("/", "Authorization", bearer, "Cookie", "session_id=nonsense"));
        assertEquals(
                "Ada true",
                get("/", "Authorization", "Bearer nonsense", "Cookie", cookie()).body());
        refused(401, "SESSION_MISSING", get("/api/", "Cookie", cookie(), "X-Forwarded-For", "127.0.0.1"));
    }

    @Test
    void whereASessionIsOptionalNobodyPassesAsNobody() throws Exception {
        assertEquals("nobody false", get("/home").body());
        assertEquals(
                "nobody false", get("/home", "Cookie", "session_id=nonsense").body());
        assertEquals("Ada true", get("/home", "Cookie", cookie()).body());
        assertThrows(
                IllegalArgumentException.class, () -> Requirement.optional().rolesAll("admin"));
        assertThrows(
                IllegalArgumentException.class, () -> Requirement.optional().rolesAny("admin"));
        assertThrows(IllegalArgumentException.class, () -> Requirement.session().rolesAny(new String[0]));
        assertThrows(
                IllegalArgumentException.class, () -> Requirement.optional().route("a"));
        assertThrows(
                IllegalArgumentException.class,
                () -> Requirement.nothing().mode(ValidationMode.VALIDATION_MODE_STRICT));
    }

    @Test
    void aSlashAtTheEndTakesNothingAway() throws Exception {
        refused(403, "ROLE_MISSING", get("/exact", "Cookie", cookie()));
        refused(403, "ROLE_MISSING", get("/exact/", "Cookie", cookie()));
        assertEquals("Ada true", get("/exact/more", "Cookie", cookie()).body());
    }

    @Test
    void aWrongQuestionIsTheAppsMistakeAndNobodyPasses() throws Exception {
        refused(500, "INTERNAL", get("/wrong", "Cookie", cookie()));
    }

    @Test
    void aDenialIs401AndTwoSessionIdsAreNone() throws Exception {
        refused(401, "MALFORMED", get("/", "Cookie", "session_id=nonsense"));
        refused(401, "MALFORMED", get("/", "Cookie", cookie() + "; session_id=other"));
        refused(401, "MALFORMED", get("/", "Cookie", "session_id="));
        assertEquals(200, get("/", "Cookie", cookie() + "; " + cookie()).statusCode());
    }

    @Test
    void aPathAsksForItsModeRuleAndRoles() throws Exception {
        refused(401, "CONTEXT_MISSING", get("/strict/x", "Cookie", cookie()));
        assertEquals(
                200,
                get("/strict", "Cookie", cookie(), "X-Device-Fingerprint", pair.get("device_fingerprint"))
                        .statusCode());
        refused(403, "ROLE_MISSING", get("/admin/x", "Cookie", cookie()));
        refused(403, "ROLE_MISSING", get("/admin", "Cookie", cookie()));
        refused(403, "ROLE_MISSING", get("/health/../%61dmin;x=/health", "Cookie", cookie()));
        assertEquals(200, get("/admin/readers", "Cookie", cookie()).statusCode());
        assertEquals(200, get("/one-of", "Cookie", cookie()).statusCode());
        refused(403, "ROLE_MISSING", get("/none-of", "Cookie", cookie()));
        refused(403, "ROLE_MISSING", get("/both", "Cookie", cookie()));
        refused(403, "ROUTE_NOT_COVERED", get("/named", "Cookie", cookie()));
    }

    @Test
    void behindATrustedProxyTheClientIsTheOneThatItNames() throws Exception {
        String bearer = "Bearer " + pair.get("session_id");
        refused(401, "CONTEXT_MISSING", get("/api/", "Authorization", bearer));
        refused(
                401,
                "IP_MISMATCH",
                get("/api/", "Authorization", bearer, "X-Forwarded-For", "127.0.0.1, 203.0.113.99"));
        refused(
                401,
                "MALFORMED",
                get("/api/", "Authorization", bearer, "Authorization", "Bearer other", "X-Forwarded-For", "1.2.3.4"));
    }

    @Test
    void whatCannotBeKnownIs503() throws Exception {
        TrustLayerClient away = TrustLayerClient.open(pair.socket().resolveSibling("no-such-socket"));
        try (away) {
            Gate.Decision decision = new Gate(away)
                    .decide(
                            Requirement.session(),
                            SessionIds.of(java.util.List.of(pair.get("session_id"))),
                            pair.context());
            assertEquals(503, decision.refusal().kind().status);
        }
        pair.tell("stop-sidecar");
        try {
            refused(503, "UNAVAILABLE", get("/", "Cookie", cookie()));
            refused(503, "UNAVAILABLE", get("/home", "Cookie", cookie()));
            refused(401, "MALFORMED", get("/", "Cookie", "session_id=" + "a".repeat(129)));
        } finally {
            pair.startSidecar(client);
        }
    }
}
