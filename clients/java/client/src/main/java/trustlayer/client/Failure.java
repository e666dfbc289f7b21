package trustlayer.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RequestInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.io.Serializable;
import java.time.Duration;
import java.util.List;
import java.util.stream.Stream;

/**
 * What is known of a call that failed.
 *
 * @param code gRPC's code
 * @param reason a name of the standard's {@code ErrorReason}, without prefix; empty where neither Flowless nor a sidecar
 *     said one
 * @param message for people; not stable
 * @param retryAfter how long to wait before another attempt; {@code null} where nothing was said
 * @param fields names of the request's fields that are wrong
 * @param requestId what to search the logs of sidecar and Flowless for; empty where nothing was said
 */
public record Failure(
        Status.Code code, String reason, String message, Duration retryAfter, List<String> fields, String requestId)
        implements Serializable {
    private static final long serialVersionUID = 1L;
    private static final String DOMAIN = "trustlayer";

    /**
     * Tell whether a sidecar or Flowless said so.
     *
     * @return false where the call reached none, or gRPC itself ended it
     */
    public boolean isAnswer() {
        return !reason.isEmpty();
    }

    @Override
    public String toString() {
        StringBuilder text = new StringBuilder(reason.isEmpty() ? code.name() : reason);
        text.append(message.isEmpty() ? "" : ": " + message);
        text.append(fields.isEmpty() ? "" : " (fields: " + String.join(", ", fields) + ")");
        return text.append(requestId.isEmpty() ? "" : " (" + requestId + ")").toString();
    }

    static Failure of(Status.Code code, String message) {
        return new Failure(code, "", message, null, List.of(), "");
    }

    /** Read the standard's error details; what is unknown, broken or of another domain is passed over. */
    static Failure of(StatusRuntimeException error) {
        String reason = "";
        Duration retryAfter = null;
        List<String> fields = List.of();
        String requestId = "";
        for (Any detail : details(error)) {
            if (read(detail, ErrorInfo.getDefaultInstance()) instanceof ErrorInfo info
                    && info.getDomain().equals(DOMAIN)) {
                reason = info.getReason();
            } else if (read(detail, RetryInfo.getDefaultInstance()) instanceof RetryInfo info && info.hasRetryDelay()) {
                retryAfter = Duration.ofSeconds(
                        info.getRetryDelay().getSeconds(), info.getRetryDelay().getNanos());
            } else if (read(detail, BadRequest.getDefaultInstance()) instanceof BadRequest info) {
                fields = info.getFieldViolationsList().stream()
                        .map(BadRequest.FieldViolation::getField)
                        .toList();
            } else if (read(detail, RequestInfo.getDefaultInstance()) instanceof RequestInfo info) {
                requestId = info.getRequestId();
            }
        }
        String said =
                Stream.ofNullable(error.getStatus().getDescription()).findAny().orElse("");
        return new Failure(error.getStatus().getCode(), reason, said, retryAfter, fields, requestId);
    }

    private static List<Any> details(StatusRuntimeException error) {
        try {
            com.google.rpc.Status status = StatusProto.fromThrowable(error);
            return status == null ? List.of() : status.getDetailsList();
        } catch (IllegalArgumentException broken) {
            return List.of();
        }
    }

    private static Message read(Any detail, Message type) {
        String name = type.getDescriptorForType().getFullName();
        if (!detail.getTypeUrl().endsWith("/" + name)) {
            return null;
        }
        try {
            return type.getParserForType().parseFrom(detail.getValue());
        } catch (InvalidProtocolBufferException broken) {
            return null;
        }
    }
}
