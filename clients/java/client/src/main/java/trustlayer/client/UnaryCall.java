package trustlayer.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.StreamObserver;
import java.time.Duration;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/**
 * One call with its deadline, made again where that is safe.
 *
 * <p>The future fails with gRPC's own exception. Cancelling it cancels the call, also between two attempts.
 */
final class UnaryCall<Q, A> {
    private static final long[] REPEATED_AFTER_MILLIS = {20, 60, 180};

    private final Channel channel;
    private final MethodDescriptor<Q, A> method;
    private final Q request;
    private final CallOptions options;
    private final Context context = Context.current();
    private final CompletableFuture<A> result = new CompletableFuture<>();
    private volatile ClientCall<Q, A> current;

    private UnaryCall(Channel channel, MethodDescriptor<Q, A> method, Q request, CallOptions options) {
        this.channel = channel;
        this.method = method;
        this.request = request;
        this.options = options;
    }

    /** Start. {@code executor} runs what follows the answer; {@code null}: gRPC's own threads. */
    static <Q, A> CompletableFuture<A> start(
            Channel channel, MethodDescriptor<Q, A> method, Q request, Duration timeout, Executor executor) {
        CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS);
        UnaryCall<Q, A> call =
                new UnaryCall<>(channel, method, request, executor == null ? options : options.withExecutor(executor));
        call.result.whenComplete((answer, error) -> call.endIfCancelled());
        call.attempt(0);
        return call.result;
    }

    private void attempt(int before) {
        if (result.isDone()) {
            return;
        }
        ClientCall<Q, A> call = channel.newCall(method, options);
        current = call;
        ClientCalls.asyncUnaryCall(call, request, new StreamObserver<>() {
            private A answer;

            @Override
            public void onNext(A message) {
                answer = message;
            }

            @Override
            public void onError(Throwable error) {
                failed(error, before);
            }

            @Override
            public void onCompleted() {
                // Only now is it one: a call may fail after its message has come.
                if (answer == null) {
                    onError(Status.INTERNAL.withDescription("no answer came").asRuntimeException());
                } else {
                    result.complete(answer);
                }
            }
        });
        endIfCancelled();
    }

    private void failed(Throwable error, int before) {
        StatusRuntimeException failure = error instanceof StatusRuntimeException known
                ? known
                : Status.fromThrowable(error).asRuntimeException();
        if (isRepeated(failure, before)) {
            CompletableFuture.delayedExecutor(REPEATED_AFTER_MILLIS[before], TimeUnit.MILLISECONDS)
                    .execute(context.wrap(() -> attempt(before + 1)));
        } else if (failure.getStatus().getCode() == Status.Code.CANCELLED && context.isCancelled()) {
            result.completeExceptionally(new CancellationException("the caller's own call was cancelled"));
        } else {
            result.completeExceptionally(failure);
        }
    }

    /** No sidecar answered, the call changes nothing, and there is time left for another attempt. */
    private boolean isRepeated(StatusRuntimeException failure, int before) {
        return method.isSafe()
                && before < REPEATED_AFTER_MILLIS.length
                && failure.getStatus().getCode() == Status.Code.UNAVAILABLE
                && !Failure.of(failure).isAnswer()
                && millisLeft() > REPEATED_AFTER_MILLIS[before];
    }

    private long millisLeft() {
        Deadline deadline = options.getDeadline();
        if (context.getDeadline() != null) {
            deadline = deadline.minimum(context.getDeadline());
        }
        return deadline.timeRemaining(TimeUnit.MILLISECONDS);
    }

    private void endIfCancelled() {
        ClientCall<Q, A> call = current;
        if (result.isCancelled() && call != null) {
            call.cancel("the caller gave up", null);
        }
    }
}
