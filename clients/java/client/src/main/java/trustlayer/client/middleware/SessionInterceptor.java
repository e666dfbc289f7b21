package trustlayer.client.middleware;

import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Grpc;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import java.util.stream.StreamSupport;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.RequestContext;
import trustlayer.v1.Session;

/**
 * Lets only gRPC calls with a session pass, unless a method says otherwise. The session id comes from the cookie {@code
 * session_id}, as from browsers that speak gRPC-Web, then from {@code authorization: Bearer}.
 *
 * <p>It waits in the server's executor: not for servers with a direct executor. Who does not pass gets UNAUTHENTICATED,
 * PERMISSION_DENIED or UNAVAILABLE (INTERNAL where the app asked a wrong question), with the reason in the trailing
 * metadata {@code trustlayer-reason}.
 */
public final class SessionInterceptor implements ServerInterceptor {
    /** Where handlers find the session: {@code SessionInterceptor.SESSION.get()}; {@code null} where there is none. */
    public static final Context.Key<Session> SESSION = Context.key("trustlayer.session");

    private static final String COOKIE_NAME = "session_id";
    private static final Metadata.Key<String> COOKIE = key("cookie");
    private static final Metadata.Key<String> AUTHORIZATION = key("authorization");
    private static final Metadata.Key<String> FORWARDED_FOR = key("x-forwarded-for");
    private static final Metadata.Key<String> USER_AGENT = key("user-agent");
    private static final Metadata.Key<String> DEVICE = key("x-device-fingerprint");

    private static final Metadata.Key<String> REASON = key("trustlayer-reason");

    private final Gate gate;
    private final Map<String, Requirement> methods;
    private final ClientAddress addresses;

    /**
     * Make an interceptor.
     *
     * @param client whom it asks; it is not closed with the server
     * @param methods what is asked for, by the name of a method, {@code package.Service/Method}, or of a service; of all
     *     others a session is
     * @param trustedProxies addresses or networks that are believed in {@code x-forwarded-for}
     */
    public SessionInterceptor(TrustLayerClient client, Map<String, Requirement> methods, List<String> trustedProxies) {
        this.gate = new Gate(client);
        this.methods = Map.copyOf(methods);
        this.addresses = new ClientAddress(trustedProxies);
    }

    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
        Requirement requirement = requirement(call);
        Gate.Decision decision = gate.decide(requirement, ids(headers), context(call, headers));
        if (decision.refusal() != null) {
            Metadata trailers = new Metadata();
            trailers.put(REASON, decision.refusal().reason());
            call.close(status(decision.refusal()), trailers);
            return new ServerCall.Listener<>() {};
        }
        return Contexts.interceptCall(Context.current().withValue(SESSION, decision.session()), call, headers, next);
    }

    /** Read the first place in which anything was sent. */
    private static SessionIds ids(Metadata headers) {
        SessionIds cookies = SessionIds.ofCookies(all(headers, COOKIE), COOKIE_NAME);
        return cookies.isEmpty() ? SessionIds.ofAuthorization(all(headers, AUTHORIZATION)) : cookies;
    }

    private Requirement requirement(ServerCall<?, ?> call) {
        Requirement ofService =
                methods.getOrDefault(call.getMethodDescriptor().getServiceName(), Requirement.session());
        return methods.getOrDefault(call.getMethodDescriptor().getFullMethodName(), ofService);
    }

    private RequestContext context(ServerCall<?, ?> call, Metadata headers) {
        boolean tcp = call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR) instanceof InetSocketAddress;
        String peer = tcp
                ? ((InetSocketAddress) call.getAttributes().get(Grpc.TRANSPORT_ATTR_REMOTE_ADDR))
                        .getAddress()
                        .getHostAddress()
                : "";
        List<String> devices = all(headers, DEVICE);
        return Gate.context(
                addresses.find(peer, all(headers, FORWARDED_FOR)),
                devices.size() == 1 ? devices.get(0) : "",
                headers.get(USER_AGENT));
    }

    private static Status status(Refusal refusal) {
        Status status =
                switch (refusal.kind()) {
                    case UNAUTHENTICATED -> Status.UNAUTHENTICATED;
                    case FORBIDDEN -> Status.PERMISSION_DENIED;
                    case INTERNAL -> Status.INTERNAL;
                    case UNAVAILABLE -> Status.UNAVAILABLE;
                };
        return status.withDescription(refusal.message());
    }

    private static List<String> all(Metadata headers, Metadata.Key<String> key) {
        Iterable<String> found = headers.getAll(key);
        return found == null
                ? List.of()
                : StreamSupport.stream(found.spliterator(), false).toList();
    }

    private static Metadata.Key<String> key(String name) {
        return Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER);
    }
}
