package trustlayer.client;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.io.Writer;
import java.lang.ProcessBuilder.Redirect;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import trustlayer.v1.GetStatusRequest;
import trustlayer.v1.RequestContext;
import trustlayer.v1.ValidatorServiceGrpc;

/** A real Flowless with a real sidecar (tools/pair.py), which end with this object, or with the JVM. */
public final class Pair implements AutoCloseable {
    /** Top of the repository. */
    public static final Path REPOSITORY =
            Path.of(System.getProperty("repository")).toAbsolutePath().normalize();

    private static final ObjectMapper JSON = new ObjectMapper();

    private final Process process;
    private final Writer commands;
    private final BufferedReader answers;
    private final JsonNode about;

    public Pair(String... roles) {
        try {
            ProcessBuilder command = new ProcessBuilder(
                    REPOSITORY.resolve(".venv/bin/python").toString(), "-m", "tools.pair", "--role", "reader");
            for (String role : roles) {
                command.command().add("--role");
                command.command().add(role);
            }
            process = command.directory(REPOSITORY.toFile())
                    .redirectError(Redirect.INHERIT)
                    .start();
            commands = process.outputWriter(StandardCharsets.UTF_8);
            answers = process.inputReader(StandardCharsets.UTF_8);
            about = JSON.readTree(answers.readLine());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    public String get(String name) {
        return about.get(name).asText();
    }

    public Path socket() {
        return Path.of(get("socket"));
    }

    /** All that the session was bound to at login. */
    public RequestContext context() {
        return RequestContext.newBuilder()
                .setClientIp(get("client_ip"))
                .setDeviceFingerprint(get("device_fingerprint"))
                .setUserAgent(get("user_agent"))
                .build();
    }

    /** Have something done, and wait until it is. */
    public void tell(String command) {
        try {
            commands.write(command + "\n");
            commands.flush();
            String answer = answers.readLine();
            if (answer == null || !JSON.readTree(answer).has("done")) {
                throw new IllegalStateException(command + ": " + answer);
            }
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
    }

    /** Start the sidecar again, and wait until this client has found it, so that the next test does. */
    public void startSidecar(TrustLayerClient client) throws InterruptedException {
        tell("start-sidecar");
        long begun = System.nanoTime();
        while (true) {
            try {
                client.call(ValidatorServiceGrpc.getGetStatusMethod(), GetStatusRequest.getDefaultInstance());
                return;
            } catch (CallFailedException notYet) {
                if (System.nanoTime() - begun > TimeUnit.SECONDS.toNanos(30)) {
                    throw notYet;
                }
            }
        }
    }

    @Override
    public void close() {
        try {
            commands.close();
            process.onExit().get(60, TimeUnit.SECONDS);
        } catch (IOException | InterruptedException | ExecutionException | TimeoutException error) {
            throw new IllegalStateException("the pair did not end", error);
        } finally {
            process.destroyForcibly();
        }
    }
}
