package trustlayer.conformance;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import conformance.v1.Active;
import conformance.v1.Cancelled;
import conformance.v1.Denied;
import conformance.v1.Description;
import conformance.v1.DriverRequest;
import conformance.v1.DriverResponse;
import io.grpc.MethodDescriptor;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.ScheduledThreadPoolExecutor;
import java.util.concurrent.TimeUnit;
import java.util.stream.Stream;
import trustlayer.client.CallFailedException;
import trustlayer.client.Failure;
import trustlayer.client.SessionDeniedException;
import trustlayer.client.TrustLayerClient;
import trustlayer.client.Validation;
import trustlayer.client.ValidatorUnavailableException;
import trustlayer.v1.IdentityServiceGrpc;
import trustlayer.v1.SessionServiceGrpc;
import trustlayer.v1.TrustTokenServiceGrpc;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidatorServiceGrpc;

/** Reads requests from standard input and answers each on standard output, until its input ends. */
public final class Driver {
    private static final int MOST_BYTES = 64 << 20;
    private static final Map<String, MethodDescriptor<?, ?>> METHODS = methods();

    private final Map<String, TrustLayerClient> clients = new HashMap<>();
    private final ScheduledThreadPoolExecutor timer = new ScheduledThreadPoolExecutor(1);

    private Driver() {}

    /**
     * Answer until the input ends.
     *
     * @param arguments none
     * @throws IOException standard input or output broke
     */
    public static void main(String[] arguments) throws IOException {
        loadClasses();
        Driver driver = new Driver();
        try (DataInputStream in = new DataInputStream(System.in);
                DataOutputStream out = new DataOutputStream(System.out)) {
            byte[] read;
            while ((read = next(in)) != null) {
                byte[] answer = driver.answer(DriverRequest.parseFrom(read)).toByteArray();
                out.writeInt(answer.length);
                out.write(answer);
                out.flush();
            }
        } finally {
            driver.timer.shutdownNow();
            driver.clients.values().forEach(TrustLayerClient::close);
        }
    }

    /** Make a call that fails: a JVM loads classes with its first, which on a busy machine outlasts a case's deadline. */
    private static void loadClasses() {
        try (TrustLayerClient nobody = TrustLayerClient.open(Path.of("no-such-socket"))) {
            nobody.validate(ValidateRequest.getDefaultInstance(), Duration.ofSeconds(30));
        } catch (ValidatorUnavailableException | InterruptedException expected) {
            return;
        }
        throw new IllegalStateException("somebody answered");
    }

    private static byte[] next(DataInputStream in) throws IOException {
        int length;
        try {
            length = in.readInt();
        } catch (EOFException end) {
            return null;
        }
        if (length < 0 || length > MOST_BYTES) {
            throw new IOException("a message of " + length + " bytes");
        }
        return in.readNBytes(length);
    }

    private DriverResponse answer(DriverRequest request) {
        DriverResponse.Builder response = DriverResponse.newBuilder();
        ScheduledFuture<?> interrupt = giveUpLater(request);
        try {
            carryOut(request, response);
        } catch (SessionDeniedException denied) {
            response.setDenied(
                            Denied.newBuilder().setReason(denied.reasonValue()).setMessage(denied.detail()))
                    .setShown(printed(denied));
        } catch (ValidatorUnavailableException unavailable) {
            response.setUnavailable(shown(unavailable.failure())).setShown(printed(unavailable));
        } catch (CallFailedException failed) {
            response.setFailure(shown(failed.failure())).setShown(printed(failed));
        } catch (InterruptedException | CancellationException gaveUp) {
            response.setCancelled(Cancelled.getDefaultInstance());
        } catch (RuntimeException | InvalidProtocolBufferException broken) {
            response.setBroken(broken.toString());
        } finally {
            if (interrupt != null && !interrupt.cancel(false)) {
                awaitInterrupt(interrupt);
            }
            Thread.interrupted();
        }
        return response.build();
    }

    /** A caller in Java gives up by interrupting the thread that waits. */
    private ScheduledFuture<?> giveUpLater(DriverRequest request) {
        if (!request.hasCancelAfter()) {
            return null;
        }
        Thread caller = Thread.currentThread();
        return timer.schedule(
                caller::interrupt, duration(request.getCancelAfter()).toNanos(), TimeUnit.NANOSECONDS);
    }

    /** It has begun: wait for its end, so that it does not hit the next request. */
    private static void awaitInterrupt(ScheduledFuture<?> interrupt) {
        while (!interrupt.isDone()) {
            Thread.onSpinWait();
        }
    }

    private void carryOut(DriverRequest request, DriverResponse.Builder response)
            throws InterruptedException, InvalidProtocolBufferException {
        switch (request.getCallCase()) {
            case DESCRIBE -> response.setDescription(description());
            case VALIDATE -> {
                TrustLayerClient client = client(request);
                Validation yes = request.hasTimeout()
                        ? client.validate(request.getValidate(), duration(request.getTimeout()))
                        : client.validate(request.getValidate());
                response.setActive(Active.newBuilder().setSession(yes.session()).setFreshness(yes.freshness()));
            }
            case RPC -> {
                MethodDescriptor<?, ?> method = METHODS.get(request.getRpc().getMethod());
                if (method == null) {
                    response.setBroken("unknown method");
                } else {
                    response.setResponse(call(request, method));
                }
            }
            default -> response.setBroken("unknown request");
        }
    }

    private <Q, A> ByteString call(DriverRequest request, MethodDescriptor<Q, A> method) throws InterruptedException {
        Q question = method.parseRequest(request.getRpc().getRequest().newInput());
        A answer = request.hasTimeout()
                ? client(request).call(method, question, duration(request.getTimeout()))
                : client(request).call(method, question);
        return ((Message) answer).toByteString();
    }

    private TrustLayerClient client(DriverRequest request) {
        return clients.computeIfAbsent(request.getSocket(), socket -> TrustLayerClient.open(Path.of(socket)));
    }

    private static Map<String, MethodDescriptor<?, ?>> methods() {
        Map<String, MethodDescriptor<?, ?>> found = new HashMap<>();
        Stream.of(
                        ValidatorServiceGrpc.getServiceDescriptor(),
                        IdentityServiceGrpc.getServiceDescriptor(),
                        SessionServiceGrpc.getServiceDescriptor(),
                        TrustTokenServiceGrpc.getServiceDescriptor())
                .flatMap(service -> service.getMethods().stream())
                .forEach(method -> found.put(method.getFullMethodName(), method));
        return found;
    }

    private static Description description() {
        String version = TrustLayerClient.class.getPackage().getImplementationVersion();
        return Description.newBuilder()
                .setLanguage("java")
                .setClientVersion(version == null ? "" : version)
                .setRuntime("java " + Runtime.version())
                .build();
    }

    private static conformance.v1.Failure shown(Failure failure) {
        conformance.v1.Failure.Builder shown = conformance.v1.Failure.newBuilder()
                .setCode(failure.code().value())
                .setReason(failure.reason())
                .setMessage(failure.message())
                .addAllFields(failure.fields())
                .setRequestId(failure.requestId());
        Duration after = failure.retryAfter();
        if (after != null) {
            shown.setRetryAfter(com.google.protobuf.Duration.newBuilder()
                    .setSeconds(after.getSeconds())
                    .setNanos(after.getNano()));
        }
        return shown.build();
    }

    /** All that Java prints of an error, with its causes and what it carries. */
    private static String printed(Exception error) {
        StringWriter all = new StringWriter();
        error.printStackTrace(new PrintWriter(all, true));
        if (error instanceof ValidatorUnavailableException unavailable) {
            all.append(unavailable.failure().toString());
        } else if (error instanceof CallFailedException failed) {
            all.append(failed.failure().toString());
        }
        return all.toString();
    }

    private static Duration duration(com.google.protobuf.Duration of) {
        return Duration.ofSeconds(of.getSeconds(), of.getNanos());
    }
}
