package trustlayer.bench;

import com.auth0.jwt.JWT;
import com.auth0.jwt.JWTVerifier;
import com.auth0.jwt.algorithms.Algorithm;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisURI;
import io.lettuce.core.api.StatefulRedisConnection;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.interfaces.RSAPublicKey;
import java.security.spec.X509EncodedKeySpec;
import java.time.Duration;
import java.util.Base64;
import java.util.concurrent.Callable;
import trustlayer.client.TrustLayerClient;
import trustlayer.v1.RequestContext;
import trustlayer.v1.ValidateRequest;
import trustlayer.v1.ValidationMode;

/** Measures validate, a GET from Redis and the verification of a JWT, as bench/language_programs.py asks for it. */
public final class Bench {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final JsonNode task;
    private final Measuring measuring;

    private Bench(JsonNode task) {
        this.task = task;
        this.measuring = new Measuring(
                task.get("warmup_seconds").asDouble(), task.get("seconds").asDouble());
    }

    /**
     * Read the task from standard input and print a line for each measurement.
     *
     * @param arguments none
     * @throws Exception a call failed, or did not give what it should
     */
    public static void main(String[] arguments) throws Exception {
        Bench bench = new Bench(JSON.readTree(System.in));
        bench.validate();
        bench.redisGet();
        bench.jwtVerify();
    }

    private void validate() throws Exception {
        ValidateRequest request = ValidateRequest.newBuilder()
                .setSessionId(text("session_id"))
                .setMode(ValidationMode.VALIDATION_MODE_STANDARD)
                .setContext(RequestContext.newBuilder().setClientIp(text("client_ip")))
                .build();
        try (TrustLayerClient client = TrustLayerClient.open(Path.of(text("socket")))) {
            // The first call loads classes, which takes as long as the machine is busy.
            client.validate(request, Duration.ofSeconds(30));
            // Not active: an exception, which ends the program.
            withEachConcurrency("validate", () -> client.validate(request));
        }
    }

    private void redisGet() throws Exception {
        String key = text("redis_key");
        RedisClient redis =
                RedisClient.create(RedisURI.Builder.socket(text("redis_socket")).build());
        try (StatefulRedisConnection<String, String> connection = redis.connect()) {
            withEachConcurrency("redis_get", () -> {
                JsonNode session = JSON.readTree(connection.sync().get(key));
                if (!session.has("handle")) {
                    throw new IllegalStateException("this is no session");
                }
                return session;
            });
        } finally {
            redis.shutdown();
        }
    }

    private void jwtVerify() throws Exception {
        String pem = text("jwt_public_key_pem").replaceAll("-----[A-Z ]+-----|\\s", "");
        RSAPublicKey key = (RSAPublicKey) KeyFactory.getInstance("RSA")
                .generatePublic(new X509EncodedKeySpec(Base64.getDecoder().decode(pem)));
        JWTVerifier verifier =
                JWT.require(Algorithm.RSA256(key)).withClaimPresence("exp").build();
        String token = text("jwt");
        print("jwt_verify", 1, () -> verifier.verify(token));
    }

    private void withEachConcurrency(String what, Callable<?> call) throws Exception {
        for (JsonNode concurrency : task.get("concurrency")) {
            print(what, concurrency.asInt(), call);
        }
    }

    private void print(String what, int concurrency, Callable<?> call) throws Exception {
        System.out.println(JSON.writeValueAsString(measuring.of(what, concurrency, call)));
    }

    private String text(String name) {
        return task.get(name).asText();
    }
}
