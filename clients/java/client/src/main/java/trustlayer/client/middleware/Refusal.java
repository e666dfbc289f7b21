package trustlayer.client.middleware;

import java.time.Duration;
import trustlayer.client.Failure;
import trustlayer.client.SessionDeniedException;
import trustlayer.v1.DenialReason;

/**
 * Why a request does not pass, as the sidecar's own gate says it.
 *
 * @param kind who are you, not you, the app's mistake, or cannot know
 * @param reason for programs
 * @param message for people
 * @param retryAfterSeconds of what cannot be known
 */
record Refusal(Kind kind, String reason, String message, long retryAfterSeconds) {
    enum Kind {
        UNAUTHENTICATED(401),
        FORBIDDEN(403),
        INTERNAL(500),
        UNAVAILABLE(503);

        final int status;

        Kind(int status) {
            this.status = status;
        }
    }

    static final Refusal MISSING = new Refusal(Kind.UNAUTHENTICATED, "SESSION_MISSING", "no session id was sent", 0);
    static final Refusal AMBIGUOUS =
            new Refusal(Kind.UNAUTHENTICATED, "MALFORMED", "more than one session id was sent", 0);
    static final Refusal TOO_LONG = new Refusal(Kind.UNAUTHENTICATED, "MALFORMED", "this is no session id", 0);
    static final Refusal ROLE_MISSING =
            new Refusal(Kind.FORBIDDEN, "ROLE_MISSING", "the user lacks a role that is needed here", 0);

    /** The sidecar refuses the question: the app's mistake, and nobody passes by it. */
    static final Refusal WRONG = new Refusal(Kind.INTERNAL, "INTERNAL", "the session could not be checked", 0);

    private static final String CANNOT_KNOW = "whether the session is valid cannot be known now";

    static final Refusal UNKNOWN = new Refusal(Kind.UNAVAILABLE, "UNAVAILABLE", CANNOT_KNOW, 1);

    static Refusal of(SessionDeniedException denied) {
        boolean forbidden = denied.reason() == DenialReason.DENIAL_REASON_ROLE_MISSING
                || denied.reason() == DenialReason.DENIAL_REASON_ROUTE_NOT_COVERED;
        return new Refusal(forbidden ? Kind.FORBIDDEN : Kind.UNAUTHENTICATED, denied.reasonName(), denied.detail(), 0);
    }

    /** Show the reason that a sidecar gave, and never its text, nor what gRPC says of sockets and paths. */
    static Refusal of(Failure failure) {
        if (!failure.isAnswer()) {
            return UNKNOWN;
        }
        Duration after = failure.retryAfter();
        long seconds =
                after == null ? 1 : Math.max(1, after.plusNanos(999_999_999).toSeconds());
        return new Refusal(Kind.UNAVAILABLE, failure.reason(), CANNOT_KNOW, seconds);
    }

    /** The value of WWW-Authenticate: RFC 6750, and RFC 9470 for who has to log in again. */
    String challenge() {
        if (this == MISSING) {
            return "Bearer";
        }
        boolean tooOld = reason.equals("AUTHENTICATION_TOO_OLD");
        return "Bearer error=\"" + (tooOld ? "insufficient_user_authentication" : "invalid_token") + "\"";
    }

    String json() {
        return "{\"reason\": \"" + escaped(reason) + "\", \"message\": \"" + escaped(message) + "\"}\n";
    }

    private static String escaped(String text) {
        StringBuilder json = new StringBuilder();
        for (char one : text.toCharArray()) {
            if (one == '"' || one == '\\') {
                json.append('\\').append(one);
            } else if (one < ' ' || one > '~') {
                json.append(String.format("\\u%04x", (int) one));
            } else {
                json.append(one);
            }
        }
        return json.toString();
    }
}
