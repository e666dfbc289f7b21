package trustlayer.client.middleware;

import java.nio.charset.StandardCharsets;
import trustlayer.client.CallFailedException;
import trustlayer.client.SessionDeniedException;
import trustlayer.client.TrustLayerClient;
import trustlayer.client.ValidatorUnavailableException;
import trustlayer.v1.RequestContext;
import trustlayer.v1.Session;
import trustlayer.v1.ValidateRequest;

/** May this request pass? What the filter and the interceptor share. */
final class Gate {
    private static final int MOST_SESSION_ID_BYTES = 128;
    private static final int MOST_DEVICE_BYTES = 512;
    private static final int MOST_USER_AGENT_BYTES = 1_024;

    private final TrustLayerClient client;

    Gate(TrustLayerClient client) {
        this.client = client;
    }

    /** A session, or why not; neither where nobody passes as nobody. */
    record Decision(Session session, Refusal refusal) {}

    /** Decide. What fails in any way does not pass; an interrupt of the waiting thread stays set. */
    Decision decide(Requirement requirement, SessionIds ids, RequestContext context) {
        if (requirement.need() == Requirement.Need.NOTHING) {
            return new Decision(null, null);
        }
        Decision decision = ask(requirement, ids, context);
        boolean nobody = decision.refusal() != null && decision.refusal().kind() == Refusal.Kind.UNAUTHENTICATED;
        return nobody && requirement.need() == Requirement.Need.OPTIONAL ? new Decision(null, null) : decision;
    }

    private Decision ask(Requirement requirement, SessionIds ids, RequestContext context) {
        if (!ids.isOne()) {
            return new Decision(null, ids.isEmpty() ? Refusal.MISSING : Refusal.AMBIGUOUS);
        }
        if (ids.one().getBytes(StandardCharsets.UTF_8).length > MOST_SESSION_ID_BYTES) {
            return new Decision(null, Refusal.TOO_LONG);
        }
        ValidateRequest question = ValidateRequest.newBuilder()
                .setSessionId(ids.one())
                .setMode(requirement.mode())
                .setRoute(requirement.route())
                .setContext(context)
                .build();
        try {
            Session session = client.validate(question).session();
            return requirement.rolesAreOf(session)
                    ? new Decision(session, null)
                    : new Decision(null, Refusal.ROLE_MISSING);
        } catch (SessionDeniedException denied) {
            return new Decision(null, Refusal.of(denied));
        } catch (ValidatorUnavailableException unavailable) {
            return new Decision(null, Refusal.of(unavailable.failure()));
        } catch (CallFailedException wrong) {
            return new Decision(null, Refusal.WRONG);
        } catch (InterruptedException gaveUp) {
            Thread.currentThread().interrupt();
            return new Decision(null, Refusal.UNKNOWN);
        }
    }

    /** Collect the request context. What is too long to be compared counts as not sent. */
    static RequestContext context(String clientIp, String device, String userAgent) {
        return RequestContext.newBuilder()
                .setClientIp(clientIp)
                .setDeviceFingerprint(atMost(device, MOST_DEVICE_BYTES))
                .setUserAgent(atMost(userAgent, MOST_USER_AGENT_BYTES))
                .build();
    }

    private static String atMost(String text, int bytes) {
        boolean fits = text != null && text.getBytes(StandardCharsets.UTF_8).length <= bytes;
        return fits ? text : "";
    }
}
