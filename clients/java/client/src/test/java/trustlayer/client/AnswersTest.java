package trustlayer.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import io.grpc.MethodDescriptor;
import io.grpc.ServerServiceDefinition;
import io.grpc.ServiceDescriptor;
import io.grpc.Status;
import io.grpc.protobuf.ProtoMethodDescriptorSupplier;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import trustlayer.v1.Denial;
import trustlayer.v1.DenialReason;
import trustlayer.v1.IdentityServiceGrpc;
import trustlayer.v1.LoginRequest;
import trustlayer.v1.LoginResponse;
import trustlayer.v1.Session;
import trustlayer.v1.SessionServiceGrpc;
import trustlayer.v1.TrustTokenServiceGrpc;
import trustlayer.v1.User;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidateResponse;
import trustlayer.v1.ValidatorServiceGrpc;

/** What the client makes of answers, and how often it asks. */
class AnswersTest {
    private static final ValidateRequest QUESTION =
            ValidateRequest.newBuilder().setSessionId("sess_a-session-id").build();
    private static final Duration LONG = Duration.ofSeconds(60);
    private static final ValidateResponse YES = ValidateResponse.newBuilder()
            .setSession(Session.newBuilder()
                    .setHandle("sh_1")
                    .setUser(User.newBuilder().setId("usr_1")))
            .build();

    @TempDir
    Path directory;

    private final AtomicInteger calls = new AtomicInteger();
    private Throwable error;
    private boolean messageFirst;
    private int errors = Integer.MAX_VALUE;
    private ValidateResponse answer = YES;
    private ScriptedSidecar sidecar;
    private TrustLayerClient client;

    @BeforeEach
    void start() throws Exception {
        sidecar = new ScriptedSidecar(
                directory.resolve("s"),
                new ValidatorServiceGrpc.ValidatorServiceImplBase() {
                    @Override
                    public void validate(ValidateRequest request, StreamObserver<ValidateResponse> observer) {
                        say(observer, answer);
                    }
                },
                new SessionServiceGrpc.SessionServiceImplBase() {
                    @Override
                    public void login(LoginRequest request, StreamObserver<LoginResponse> observer) {
                        say(observer, LoginResponse.getDefaultInstance());
                    }
                });
        client = TrustLayerClient.open(directory.resolve("s"));
    }

    @AfterEach
    void end() throws Exception {
        client.close();
        sidecar.close();
    }

    private <A> void say(StreamObserver<A> observer, A said) {
        if (calls.incrementAndGet() <= errors && error != null) {
            if (messageFirst) {
                observer.onNext(said);
            }
            observer.onError(error);
        } else {
            observer.onNext(said);
            observer.onCompleted();
        }
    }

    private static Throwable ours(Status.Code code, Any... details) {
        return StatusProto.toStatusRuntimeException(com.google.rpc.Status.newBuilder()
                .setCode(code.value())
                .setMessage("text")
                .addAllDetails(List.of(details))
                .build());
    }

    private static Any info(String domain, String reason) {
        return Any.pack(
                ErrorInfo.newBuilder().setDomain(domain).setReason(reason).build());
    }

    @Test
    void aQuestionThatNoSidecarAnsweredIsAskedAgainThreeTimes() throws Exception {
        error = Status.UNAVAILABLE.asRuntimeException();
        errors = 3;
        assertEquals("sh_1", client.validate(QUESTION, LONG).session().getHandle());
        assertEquals(4, calls.get());
        errors = Integer.MAX_VALUE;
        assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        assertEquals(8, calls.get());
    }

    @Test
    void anotherDomainsErrorIsNoAnswerOfOurs() throws Exception {
        error = ours(Status.Code.UNAVAILABLE, info("example.org", "AWAY"));
        errors = 1;
        assertEquals("sh_1", client.validate(QUESTION, LONG).session().getHandle());
        assertEquals(2, calls.get());
    }

    @Test
    void anUnavailableThatASidecarAnsweredIsNotRepeated() {
        error = ours(Status.Code.UNAVAILABLE, info("trustlayer", "OF_A_NEWER_SIDECAR"));
        ValidatorUnavailableException away =
                assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        assertEquals("OF_A_NEWER_SIDECAR", away.failure().reason());
        assertEquals(1, calls.get());
    }

    @Test
    void aCallWithSideEffectsIsNeverRepeated() {
        error = Status.UNAVAILABLE.asRuntimeException();
        assertThrows(
                CallFailedException.class,
                () -> client.call(SessionServiceGrpc.getLoginMethod(), LoginRequest.getDefaultInstance(), LONG));
        assertEquals(1, calls.get());
    }

    @Test
    void aRepeatDoesNotOutliveTheDeadline() throws Exception {
        client.validate(QUESTION, LONG);
        calls.set(0);
        error = Status.UNAVAILABLE.asRuntimeException();
        long begun = System.nanoTime();
        assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, Duration.ofMillis(150)));
        assertTrue(System.nanoTime() - begun < 1_000_000_000L);
        assertTrue(calls.get() < 4, "as many attempts as without a deadline");
    }

    @Test
    void aReasonOfANewerSidecarIsADenial() {
        answer = ValidateResponse.newBuilder()
                .setDenial(Denial.newBuilder().setReasonValue(99).setMessage("new"))
                .build();
        SessionDeniedException denied =
                assertThrows(SessionDeniedException.class, () -> client.validate(QUESTION, LONG));
        assertEquals(99, denied.reasonValue());
        assertEquals(DenialReason.UNRECOGNIZED, denied.reason());
        assertEquals("NOT_ACTIVE", denied.reasonName());
    }

    @Test
    void anAnswerThatIsNeitherASessionNorADenialIsUnavailable() {
        answer = ValidateResponse.getDefaultInstance();
        assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
    }

    @ParameterizedTest
    @CsvSource({"'', ''", "sh_1, ''", "'', usr_1"})
    void aSessionOfNobodyIsUnavailable(String handle, String user) {
        answer = ValidateResponse.newBuilder()
                .setSession(Session.newBuilder()
                        .setHandle(handle)
                        .setUser(User.newBuilder().setId(user)))
                .build();
        ValidatorUnavailableException nobody =
                assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        assertEquals(Status.Code.UNKNOWN, nobody.failure().code());
    }

    @Test
    void anAnswerThatEndsInAnErrorIsNone() {
        error = Status.INTERNAL.asRuntimeException();
        messageFirst = true;
        assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        ExecutionException later = assertThrows(
                ExecutionException.class,
                () -> client.validateAsync(QUESTION, LONG).get());
        assertEquals(ValidatorUnavailableException.class, later.getCause().getClass());
    }

    @Test
    @Timeout(value = 60, unit = TimeUnit.SECONDS)
    void anAnswerWithoutAMessageEndsTheCall() throws Exception {
        // Of a server stream, since gRPC's server sends no such answer for a unary method.
        MethodDescriptor<ValidateRequest, ValidateResponse> stream =
                ValidatorServiceGrpc.getValidateMethod().toBuilder()
                        .setType(MethodDescriptor.MethodType.SERVER_STREAMING)
                        .build();
        ServerServiceDefinition silent = ServerServiceDefinition.builder(ValidatorServiceGrpc.SERVICE_NAME)
                .addMethod(stream, ServerCalls.asyncServerStreamingCall((request, observer) -> observer.onCompleted()))
                .build();
        try (ScriptedSidecar other = new ScriptedSidecar(directory.resolve("silent"), () -> silent);
                TrustLayerClient asking = TrustLayerClient.open(other.socket())) {
            ExecutionException failed = assertThrows(
                    ExecutionException.class,
                    () -> asking.validateAsync(QUESTION).get(30, TimeUnit.SECONDS));
            assertEquals(ValidatorUnavailableException.class, failed.getCause().getClass());
        }
    }

    @Test
    void onlyASidecarSaysThatTheQuestionIsWrong() {
        error = Status.INVALID_ARGUMENT.asRuntimeException();
        assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        error = ours(Status.Code.INVALID_ARGUMENT, info("trustlayer", "INVALID_FIELD"));
        assertThrows(CallFailedException.class, () -> client.validate(QUESTION, LONG));
    }

    @Test
    void whateverElseFailsIsUnavailableAndBrokenDetailsArePassedOver() {
        Any broken = Any.newBuilder()
                .setTypeUrl("type.googleapis.com/google.rpc.RetryInfo")
                .setValue(com.google.protobuf.ByteString.copyFromUtf8("\u00ff\u00ff"))
                .build();
        error = ours(Status.Code.INTERNAL, broken, info("trustlayer", "INTERNAL"));
        ValidatorUnavailableException failed =
                assertThrows(ValidatorUnavailableException.class, () -> client.validate(QUESTION, LONG));
        assertEquals("INTERNAL", failed.failure().reason());
        assertEquals(Status.Code.INTERNAL, failed.failure().code());
    }

    @Test
    void exactlyTheMethodsWithoutSideEffectsAreSafeToRepeat() {
        for (ServiceDescriptor service : List.of(
                ValidatorServiceGrpc.getServiceDescriptor(),
                IdentityServiceGrpc.getServiceDescriptor(),
                SessionServiceGrpc.getServiceDescriptor(),
                TrustTokenServiceGrpc.getServiceDescriptor())) {
            for (MethodDescriptor<?, ?> method : service.getMethods()) {
                var declared = ((ProtoMethodDescriptorSupplier) method.getSchemaDescriptor())
                        .getMethodDescriptor()
                        .getOptions()
                        .getIdempotencyLevel();
                assertEquals(declared.name().equals("NO_SIDE_EFFECTS"), method.isSafe(), method.getFullMethodName());
            }
        }
    }
}
