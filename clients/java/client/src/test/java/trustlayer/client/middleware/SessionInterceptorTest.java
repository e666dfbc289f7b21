package trustlayer.client.middleware;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.StreamObserver;
import java.net.InetSocketAddress;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import trustlayer.client.Pair;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.Denial;
import trustlayer.v1.GetStatusRequest;
import trustlayer.v1.GetStatusResponse;
import trustlayer.v1.Session;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidateResponse;
import trustlayer.v1.ValidatorServiceGrpc;

/** Who gets through to the methods of a real gRPC server, with a real sidecar. */
class SessionInterceptorTest {
    private static final Metadata.Key<String> REASON =
            Metadata.Key.of("trustlayer-reason", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> COOKIE = Metadata.Key.of("cookie", Metadata.ASCII_STRING_MARSHALLER);

    private static Pair pair;
    private static TrustLayerClient client;

    /** An app's service: its one method says who called, its other is for admins. */
    private static final class WhoAmI extends ValidatorServiceGrpc.ValidatorServiceImplBase {
        @Override
        public void validate(ValidateRequest request, StreamObserver<ValidateResponse> observer) {
            Session session = SessionInterceptor.SESSION.get();
            String name = session == null ? "nobody" : session.getUser().getName();
            observer.onNext(ValidateResponse.newBuilder()
                    .setDenial(Denial.newBuilder().setMessage(name))
                    .build());
            observer.onCompleted();
        }

        @Override
        public void getStatus(GetStatusRequest request, StreamObserver<GetStatusResponse> observer) {
            observer.onNext(GetStatusResponse.getDefaultInstance());
            observer.onCompleted();
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
    }

    @AfterAll
    static void end() {
        client.close();
        pair.close();
    }

    /** Call a server with that requirement of its first method, as somebody who sends these cookies or Authorization lines. */
    private interface Calling {
        void with(ValidatorServiceGrpc.ValidatorServiceBlockingStub stub);
    }

    private static void served(Requirement requirement, Calling calling, String... sent) throws Exception {
        SessionInterceptor interceptor = new SessionInterceptor(
                client,
                Map.of(
                        "trustlayer.v1.ValidatorService",
                        requirement,
                        "trustlayer.v1.ValidatorService/GetStatus",
                        Requirement.session().rolesAll("admin")),
                List.of());
        Server server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
                .addService(new WhoAmI())
                .intercept(interceptor)
                .build()
                .start();
        ManagedChannel channel = NettyChannelBuilder.forAddress("127.0.0.1", server.getPort())
                .usePlaintext()
                .build();
        Metadata headers = new Metadata();
        for (String line : sent) {
            headers.put(line.contains("=") ? COOKIE : AUTHORIZATION, line);
        }
        try {
            calling.with(ValidatorServiceGrpc.newBlockingStub(channel)
                    .withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)));
        } finally {
            channel.shutdownNow();
            server.shutdownNow();
        }
    }

    private static void passes(String name, Requirement requirement, String... sent) throws Exception {
        served(
                requirement,
                stub -> assertEquals(
                        name,
                        stub.validate(ValidateRequest.getDefaultInstance())
                                .getDenial()
                                .getMessage()),
                sent);
    }

    private static void refused(Status.Code code, String reason, Requirement requirement, String... sent)
            throws Exception {
        served(
                requirement,
                stub -> check(
                        code,
                        reason,
                        assertThrows(
                                StatusRuntimeException.class,
                                () -> stub.validate(ValidateRequest.getDefaultInstance()))),
                sent);
    }

    private static void check(Status.Code code, String reason, StatusRuntimeException refusal) {
        assertEquals(code, refusal.getStatus().getCode());
        assertEquals(reason, refusal.getTrailers().get(REASON));
        assertFalse(refusal.toString().contains(pair.get("session_id")));
    }

    private static String cookie() {
        return "theme=dark; session_id=" + pair.get("session_id");
    }

    private static String bearer() {
        return "Bearer " + pair.get("session_id");
    }

    @Test
    void whoHasASessionPassesAndIsKnown() throws Exception {
        passes("Ada", Requirement.session(), bearer());
        passes("nobody", Requirement.nothing(), bearer());
        passes("nobody", Requirement.optional());
        passes("Ada", Requirement.optional(), bearer());
    }

    @Test
    void theCookieCountsBeforeTheBearer() throws Exception {
        passes("Ada", Requirement.session(), cookie());
        passes("Ada", Requirement.session(), "theme=dark", bearer());
        passes("Ada", Requirement.session(), cookie(), "Bearer other");
        refused(Status.Code.UNAUTHENTICATED, "MALFORMED", Requirement.session(), "session_id=other", bearer());
        refused(Status.Code.UNAUTHENTICATED, "MALFORMED", Requirement.session(), cookie(), "session_id=other");
    }

    @Test
    void whoDoesNotPassIsToldWhyInTheTrailers() throws Exception {
        refused(Status.Code.UNAUTHENTICATED, "SESSION_MISSING", Requirement.session());
        refused(Status.Code.UNAUTHENTICATED, "MALFORMED", Requirement.session(), "Bearer nonsense");
        refused(Status.Code.UNAUTHENTICATED, "MALFORMED", Requirement.session(), bearer(), "Bearer other");
        refused(
                Status.Code.PERMISSION_DENIED,
                "ROUTE_NOT_COVERED",
                Requirement.session().route("no-such-rule"),
                bearer());
        refused(
                Status.Code.INTERNAL,
                "INTERNAL",
                Requirement.session().route("no rule's name".repeat(1_000)),
                bearer());
    }

    @Test
    void aMethodsOwnRequirementCountsBeforeItsServices() throws Exception {
        served(
                Requirement.nothing(),
                stub -> check(
                        Status.Code.PERMISSION_DENIED,
                        "ROLE_MISSING",
                        assertThrows(
                                StatusRuntimeException.class,
                                () -> stub.getStatus(GetStatusRequest.getDefaultInstance()))),
                bearer());
    }

    @Test
    void whatCannotBeKnownIsUnavailable() throws Exception {
        pair.tell("stop-sidecar");
        try {
            refused(Status.Code.UNAVAILABLE, "UNAVAILABLE", Requirement.session(), bearer());
        } finally {
            pair.startSidecar(client);
        }
    }
}
