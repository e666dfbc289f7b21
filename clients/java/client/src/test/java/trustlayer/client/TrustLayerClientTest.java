package trustlayer.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.Status;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import trustlayer.v1.DenialReason;
import trustlayer.v1.GetStatusRequest;
import trustlayer.v1.LoginRequest;
import trustlayer.v1.LoginResponse;
import trustlayer.v1.RequestContext;
import trustlayer.v1.SessionServiceGrpc;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidationMode;
import trustlayer.v1.ValidatorServiceGrpc;

/** What an app gets from a real sidecar. */
@Timeout(value = 120, unit = TimeUnit.SECONDS)
class TrustLayerClientTest {
    private static final Duration LONG = Duration.ofSeconds(60);

    private static Pair pair;
    private static TrustLayerClient client;

    @BeforeAll
    static void start() throws InterruptedException {
        pair = new Pair();
        client = TrustLayerClient.open(pair.socket());
        client.call(ValidatorServiceGrpc.getGetStatusMethod(), GetStatusRequest.getDefaultInstance(), LONG);
    }

    @AfterAll
    static void end() throws Exception {
        client.close();
        pair.close();
    }

    private static ValidateRequest question(String sessionId) {
        return ValidateRequest.newBuilder()
                .setSessionId(sessionId)
                .setContext(pair.context())
                .setMode(ValidationMode.VALIDATION_MODE_STRICT)
                .build();
    }

    private static LoginRequest login(String password) {
        return LoginRequest.newBuilder()
                .setLogin(pair.get("login"))
                .setPassword(password)
                .setContext(pair.context())
                .build();
    }

    @Test
    void aSessionThatIsActiveIsAYesWithItsUser() throws Exception {
        Validation yes = client.validate(question(pair.get("session_id")));
        assertEquals(pair.get("login"), yes.session().getUser().getEmail());
        assertTrue(yes.freshness().getRevision() >= 0);
        Validation same = client.validate(pair.get("session_id"), pair.context());
        assertEquals(yes.session().getHandle(), same.session().getHandle());
        assertEquals(
                yes.session().getHandle(),
                client.validateAsync(question(pair.get("session_id")))
                        .get()
                        .session()
                        .getHandle());
    }

    @Test
    void aDenialIsAnExceptionWithItsReason() {
        SessionDeniedException denied =
                assertThrows(SessionDeniedException.class, () -> client.validate(question("no session id")));
        assertEquals(DenialReason.DENIAL_REASON_MALFORMED, denied.reason());
        assertEquals("MALFORMED", denied.reasonName());
        ValidateRequest elsewhere = ValidateRequest.newBuilder()
                .setSessionId(pair.get("session_id"))
                .setContext(RequestContext.newBuilder().setClientIp("203.0.113.250"))
                .build();
        SessionDeniedException other = assertThrows(SessionDeniedException.class, () -> client.validate(elsewhere));
        assertEquals(DenialReason.DENIAL_REASON_IP_MISMATCH, other.reason());
        assertFalse(other.toString().contains(pair.get("session_id")));
        ExecutionException later = assertThrows(
                ExecutionException.class, () -> client.validateAsync(elsewhere).get());
        assertEquals(SessionDeniedException.class, later.getCause().getClass());
    }

    @Test
    void aWrongQuestionIsNeitherADenialNorUnavailableAndNamesTheFields() {
        ValidateRequest wrong = question(pair.get("session_id")).toBuilder()
                .setRoute("a")
                .setPath("/b")
                .build();
        CallFailedException failed = assertThrows(CallFailedException.class, () -> client.validate(wrong));
        assertEquals(Status.Code.INVALID_ARGUMENT, failed.failure().code());
        assertEquals("INVALID_FIELD", failed.failure().reason());
        assertFalse(failed.failure().fields().isEmpty());
    }

    @Test
    void whatTheSidecarRelaysIsCalledByTheGeneratedMethod() throws Exception {
        LoginResponse loggedIn = client.call(SessionServiceGrpc.getLoginMethod(), login(pair.get("password")));
        assertEquals(
                loggedIn.getSession().getHandle(),
                client.validate(question(loggedIn.getSessionId())).session().getHandle());
        CallFailedException refused = assertThrows(
                CallFailedException.class, () -> client.call(SessionServiceGrpc.getLoginMethod(), login("wrong")));
        assertEquals("LOGIN_REFUSED", refused.failure().reason());
        assertEquals(Status.Code.UNAUTHENTICATED, refused.failure().code());
        assertTrue(client.callAsync(SessionServiceGrpc.getLoginMethod(), login(pair.get("password")), LONG)
                .get()
                .hasSession());
    }

    @Test
    void whoGivesUpIsToldThatAndADeadlineThatPassesIsUnavailable() throws Exception {
        pair.tell("pause-sidecar");
        try {
            ValidatorUnavailableException late = assertThrows(
                    ValidatorUnavailableException.class,
                    () -> client.validate(question(pair.get("session_id")), Duration.ofMillis(200)));
            assertEquals(Status.Code.DEADLINE_EXCEEDED, late.failure().code());

            Thread waiting = Thread.currentThread();
            CompletableFuture.delayedExecutor(200, TimeUnit.MILLISECONDS).execute(waiting::interrupt);
            assertThrows(InterruptedException.class, () -> client.validate(question(pair.get("session_id")), LONG));

            CompletableFuture<Validation> future = client.validateAsync(question(pair.get("session_id")), LONG);
            assertTrue(future.cancel(true));
            assertThrows(CancellationException.class, future::get);

            io.grpc.Context.CancellableContext context =
                    io.grpc.Context.current().withCancellation();
            CompletableFuture.delayedExecutor(200, TimeUnit.MILLISECONDS).execute(() -> context.cancel(null));
            assertThrows(
                    CancellationException.class,
                    () -> context.call(() -> client.validate(question(pair.get("session_id")), LONG)));
        } finally {
            pair.tell("resume-sidecar");
        }
    }

    @Test
    void aSidecarThatIsAwayIsUnavailableAndOneThatReturnsIsFoundWithinASecond() throws Exception {
        pair.tell("stop-sidecar");
        ValidatorUnavailableException away = assertThrows(
                ValidatorUnavailableException.class, () -> client.validate(question(pair.get("session_id"))));
        assertEquals(Status.Code.UNAVAILABLE, away.failure().code());
        assertFalse(away.failure().isAnswer());
        assertFalse(away.toString().contains(pair.get("session_id")));
        // Long enough for gRPC's own wait between two attempts to have grown to seconds.
        Thread.sleep(4_000);
        pair.tell("start-sidecar");
        Thread.sleep(1_000);
        // With side effects, so that it is not made again.
        assertTrue(client.call(SessionServiceGrpc.getLoginMethod(), login(pair.get("password")))
                .hasSession());
        pair.tell("restart-sidecar");
        assertTrue(client.validate(question(pair.get("session_id"))).session().hasUser());
    }

    @Test
    void aStreamIsNoUnaryCall() {
        var watch = trustlayer.v1.BridgeServiceGrpc.getWatchRevocationsMethod();
        assertThrows(
                IllegalArgumentException.class,
                () -> client.call(watch, trustlayer.v1.WatchRevocationsRequest.getDefaultInstance()));
    }
}
