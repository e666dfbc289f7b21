package trustlayer.client;

import io.grpc.Channel;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Executor;
import java.util.function.BiFunction;
import trustlayer.v1.RequestContext;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidateResponse;
import trustlayer.v1.ValidatorServiceGrpc;

/**
 * A client of the sidecar's socket: one for an app, shared by all of its threads.
 *
 * <p>It holds no secret and caches nothing. It connects with the first call, and anew after its sidecar was away. Every
 * call has a deadline. A thread that is interrupted while it waits gives up: the call is cancelled and {@link
 * InterruptedException} thrown; so is the call of a future that is cancelled ({@link
 * java.util.concurrent.CancellationException}), and a call within a {@code io.grpc.Context} that is.
 */
public final class TrustLayerClient implements AutoCloseable {
    /** Deadline of calls of {@code ValidatorService} that are given none. */
    public static final Duration VALIDATOR_TIMEOUT = Duration.ofSeconds(2);

    /** Deadline of all other calls that are given none. */
    public static final Duration CALL_TIMEOUT = Duration.ofSeconds(10);

    private static final Executor AT_ONCE = Runnable::run;

    private final UnixChannel unix;

    private TrustLayerClient(Path socket) {
        unix = new UnixChannel(socket);
        Reconnect.keep(unix.channel());
    }

    /**
     * Make a client. Nothing is connected yet, so the sidecar may start later.
     *
     * @param socket path of the sidecar's socket
     * @return the client, to be closed
     */
    public static TrustLayerClient open(Path socket) {
        return new TrustLayerClient(socket);
    }

    /**
     * Ask whether a session is active for a request, in the mode that the sidecar's rules say.
     *
     * @param sessionId as the browser sent it
     * @param context what the app knows of the request
     * @return a yes
     * @throws SessionDeniedException a definite no
     * @throws ValidatorUnavailableException nobody can know now
     * @throws CallFailedException the question is wrong: the failure names the fields
     * @throws InterruptedException the thread was interrupted while it waited
     */
    public Validation validate(String sessionId, RequestContext context) throws InterruptedException {
        return validate(ValidateRequest.newBuilder()
                .setSessionId(sessionId)
                .setContext(context)
                .build());
    }

    /**
     * Ask whether a session is active for a request.
     *
     * @param request the question
     * @return a yes
     * @throws SessionDeniedException a definite no
     * @throws ValidatorUnavailableException nobody can know now
     * @throws CallFailedException the question is wrong: the failure names the fields
     * @throws InterruptedException the thread was interrupted while it waited
     */
    public Validation validate(ValidateRequest request) throws InterruptedException {
        return validate(request, VALIDATOR_TIMEOUT);
    }

    /**
     * Ask whether a session is active for a request.
     *
     * @param request the question
     * @param timeout deadline of the call; one that passes is unavailable
     * @return a yes
     * @throws SessionDeniedException a definite no
     * @throws ValidatorUnavailableException nobody can know now
     * @throws CallFailedException the question is wrong: the failure names the fields
     * @throws InterruptedException the thread was interrupted while it waited
     */
    public Validation validate(ValidateRequest request, Duration timeout) throws InterruptedException {
        return await(start(ValidatorServiceGrpc.getValidateMethod(), request, timeout, AT_ONCE), Verdict::of);
    }

    /**
     * Ask without waiting.
     *
     * @param request the question
     * @return a yes, or what {@link #validate(ValidateRequest)} throws; cancelling it cancels the call
     */
    public CompletableFuture<Validation> validateAsync(ValidateRequest request) {
        return validateAsync(request, VALIDATOR_TIMEOUT);
    }

    /**
     * Ask without waiting.
     *
     * @param request the question
     * @param timeout deadline of the call; one that passes is unavailable
     * @return a yes, or what {@link #validate(ValidateRequest)} throws; cancelling it cancels the call
     */
    public CompletableFuture<Validation> validateAsync(ValidateRequest request, Duration timeout) {
        return derived(start(ValidatorServiceGrpc.getValidateMethod(), request, timeout, null), Verdict::of);
    }

    /**
     * Call any unary method that the sidecar serves or relays, for example {@code SessionServiceGrpc.getLoginMethod()}.
     *
     * @param method of the generated code
     * @param request what to send
     * @param <Q> type of the request
     * @param <A> type of the answer
     * @return the answer
     * @throws CallFailedException it failed, or its deadline passed
     * @throws InterruptedException the thread was interrupted while it waited
     */
    public <Q, A> A call(MethodDescriptor<Q, A> method, Q request) throws InterruptedException {
        return call(method, request, defaultTimeout(method));
    }

    /**
     * Call any unary method that the sidecar serves or relays.
     *
     * @param method of the generated code
     * @param request what to send
     * @param timeout deadline of the call
     * @param <Q> type of the request
     * @param <A> type of the answer
     * @return the answer
     * @throws CallFailedException it failed, or its deadline passed
     * @throws InterruptedException the thread was interrupted while it waited
     */
    public <Q, A> A call(MethodDescriptor<Q, A> method, Q request, Duration timeout) throws InterruptedException {
        return await(start(method, request, timeout, AT_ONCE), TrustLayerClient::answer);
    }

    /**
     * Call without waiting.
     *
     * @param method of the generated code, unary
     * @param request what to send
     * @param timeout deadline of the call
     * @param <Q> type of the request
     * @param <A> type of the answer
     * @return the answer, or {@link CallFailedException}; cancelling it cancels the call
     */
    public <Q, A> CompletableFuture<A> callAsync(MethodDescriptor<Q, A> method, Q request, Duration timeout) {
        return derived(start(method, request, timeout, null), TrustLayerClient::answer);
    }

    /**
     * Hand out the channel, for generated stubs and streams. Their calls have no deadline unless they are given one, are not
     * repeated, and fail with gRPC's own exceptions.
     *
     * @return the channel, which ends with this client
     */
    public Channel channel() {
        return unix.channel();
    }

    /** End calls in flight and the connection. Calls made afterwards fail. */
    @Override
    public void close() {
        unix.close();
    }

    private static Duration defaultTimeout(MethodDescriptor<?, ?> method) {
        boolean own = ValidatorServiceGrpc.SERVICE_NAME.equals(method.getServiceName());
        return own ? VALIDATOR_TIMEOUT : CALL_TIMEOUT;
    }

    private <Q, A> CompletableFuture<A> start(
            MethodDescriptor<Q, A> method, Q request, Duration timeout, Executor executor) {
        if (method.getType() != MethodDescriptor.MethodType.UNARY) {
            throw new IllegalArgumentException(method.getFullMethodName() + " is a stream: make a stub of channel()");
        }
        return UnaryCall.start(unix.channel(), method, request, timeout, executor);
    }

    private static <A> A answer(A answer, StatusRuntimeException error) {
        if (error != null) {
            throw new CallFailedException(Failure.of(error), error);
        }
        return answer;
    }

    /** Wait in the caller's thread, whose stack an exception then shows. */
    private static <A, R> R await(CompletableFuture<A> call, BiFunction<A, StatusRuntimeException, R> outcome)
            throws InterruptedException {
        try {
            return outcome.apply(call.get(), null);
        } catch (InterruptedException gaveUp) {
            call.cancel(true);
            throw gaveUp;
        } catch (ExecutionException failed) {
            return outcome.apply(null, known(failed.getCause()));
        }
    }

    private static <A, R> CompletableFuture<R> derived(
            CompletableFuture<A> call, BiFunction<A, StatusRuntimeException, R> outcome) {
        CompletableFuture<R> derived = new CompletableFuture<>();
        derived.whenComplete((result, error) -> {
            if (derived.isCancelled()) {
                call.cancel(true);
            }
        });
        call.whenComplete((answer, error) -> {
            try {
                derived.complete(outcome.apply(answer, error == null ? null : known(error)));
            } catch (RuntimeException thrown) {
                derived.completeExceptionally(thrown);
            }
        });
        return derived;
    }

    private static StatusRuntimeException known(Throwable error) {
        if (error instanceof StatusRuntimeException known) {
            return known;
        }
        if (error instanceof RuntimeException other) {
            throw other;
        }
        return Status.fromThrowable(error).asRuntimeException();
    }

    /** What an answer to Validate comes to. */
    private static final class Verdict {
        private Verdict() {}

        static Validation of(ValidateResponse answer, StatusRuntimeException error) {
            if (error != null) {
                Failure failure = Failure.of(error);
                throw failure.code() == Status.Code.INVALID_ARGUMENT && failure.isAnswer()
                        ? new CallFailedException(failure, error)
                        : new ValidatorUnavailableException(failure, error);
            }
            return switch (answer.getResultCase()) {
                case SESSION -> {
                    // Nobody's session is no yes: an app would look for what belongs to the user "".
                    if (answer.getSession().getHandle().isEmpty()
                            || answer.getSession().getUser().getId().isEmpty()) {
                        throw new ValidatorUnavailableException(
                                Failure.of(Status.Code.UNKNOWN, "the answer holds a session of nobody"), null);
                    }
                    yield new Validation(answer.getSession(), answer.getFreshness());
                }
                case DENIAL -> throw new SessionDeniedException(answer.getDenial());
                default ->
                    throw new ValidatorUnavailableException(
                            Failure.of(Status.Code.UNKNOWN, "neither a session nor a denial came"), null);
            };
        }
    }
}
