package trustlayer.conformance;

import jakarta.servlet.DispatcherType;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.nio.file.Path;
import java.util.EnumSet;
import java.util.List;
import org.eclipse.jetty.ee10.servlet.FilterHolder;
import org.eclipse.jetty.ee10.servlet.ServletContextHandler;
import org.eclipse.jetty.ee10.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.server.ServerConnector;
import trustlayer.client.TrustLayerClient;
import trustlayer.client.middleware.Requirement;
import trustlayer.client.middleware.SessionFilter;
import trustlayer.client.middleware.SessionPrincipal;
import trustlayer.v1.ValidationMode;

/** The app of the middleware cases as a servlet behind the filter; its argument is the port. */
public final class App {
    private static final List<String> PATHS =
            List.of("/whoami", "/public", "/maybe", "/admin", "/both", "/either", "/fresh", "/named", "/wrong");

    private App() {}

    /** Answers with the address of the session's user, or with null. */
    private static final class Shown extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void doGet(HttpServletRequest request, HttpServletResponse response) throws IOException {
            String email = request.getUserPrincipal() instanceof SessionPrincipal known
                    ? '"' + known.session().getUser().getEmail() + '"'
                    : "null";
            response.setContentType("application/json");
            response.getWriter().print("{\"email\": " + email + "}");
        }
    }

    /**
     * Serves until the process is ended.
     *
     * @param arguments the port
     * @throws Exception the port is taken, say
     */
    public static void main(String[] arguments) throws Exception {
        TrustLayerClient client = TrustLayerClient.open(Path.of(System.getenv("APP_SIDECAR_SOCKET")));
        Requirement session = Requirement.session();
        SessionFilter filter = SessionFilter.builder(client)
                .trustedProxies("127.0.0.9")
                .path("/public", Requirement.nothing())
                .path("/maybe", Requirement.optional())
                .path(
                        "/admin",
                        session.mode(ValidationMode.VALIDATION_MODE_STRICT).rolesAny("admin"))
                .path("/both", session.rolesAll("reader", "admin"))
                .path("/either", session.rolesAny("reader", "admin"))
                .path("/fresh", session.route("payments"))
                .path("/named", session.route("no-such-rule"))
                .path("/wrong", session.route("x".repeat(129)))
                .build();
        Server server = new Server();
        ServerConnector connector = new ServerConnector(server);
        connector.setHost("127.0.0.1");
        connector.setPort(Integer.parseInt(arguments[0]));
        server.addConnector(connector);
        ServletContextHandler context = new ServletContextHandler("/");
        context.addFilter(new FilterHolder(filter), "/*", EnumSet.of(DispatcherType.REQUEST));
        ServletHolder shown = new ServletHolder(new Shown());
        for (String path : PATHS) {
            context.addServlet(shown, path);
        }
        server.setHandler(context);
        server.start();
        server.join();
    }
}
