package trustlayer.client.middleware;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import org.junit.jupiter.api.Test;
import trustlayer.client.Failure;

/** What a refusal shows to strangers. */
class RefusalTest {
    @Test
    void whoLoggedInTooLongAgoIsToldToLogInAgain() {
        Refusal tooOld = new Refusal(Refusal.Kind.UNAUTHENTICATED, "AUTHENTICATION_TOO_OLD", "", 0);
        assertEquals("Bearer error=\"insufficient_user_authentication\"", tooOld.challenge());
        assertEquals("Bearer error=\"invalid_token\"", Refusal.AMBIGUOUS.challenge());
        assertEquals("Bearer", Refusal.MISSING.challenge());
    }

    @Test
    void whatCannotBeKnownShowsAReasonOfOursAndNoText() {
        Refusal ours = Refusal.of(new Failure(
                Status.Code.UNAVAILABLE, "CORE_UNREACHABLE", "of our inside", Duration.ofMillis(1_001), List.of(), ""));
        assertEquals("CORE_UNREACHABLE", ours.reason());
        assertEquals(2, ours.retryAfterSeconds());
        assertFalse(ours.json().contains("inside"));
        Refusal others =
                Refusal.of(new Failure(Status.Code.PERMISSION_DENIED, "", "of another's inside", null, List.of(), ""));
        assertEquals(Refusal.UNKNOWN, others);
    }
}
