package trustlayer.client;

import trustlayer.v1.Denial;
import trustlayer.v1.DenialReason;

/** A definite no: the session is not valid, or not for this request. */
public final class SessionDeniedException extends TrustLayerException {
    private static final long serialVersionUID = 1L;

    /** The number of the reason. */
    private final int reasonValue;

    /** The text that came with it. */
    private final String detail;

    SessionDeniedException(Denial denial) {
        super(nameOf(denial) + (denial.getMessage().isEmpty() ? "" : ": " + denial.getMessage()), null);
        this.reasonValue = denial.getReasonValue();
        this.detail = denial.getMessage();
    }

    /**
     * Tell why.
     *
     * @return {@code UNRECOGNIZED} for a reason that only a newer sidecar knows: a denial all the same
     */
    public DenialReason reason() {
        DenialReason known = DenialReason.forNumber(reasonValue);
        return known == null ? DenialReason.UNRECOGNIZED : known;
    }

    /**
     * Tell why, as a number of the standard's {@code DenialReason}.
     *
     * @return the number, also one that this version has no name for
     */
    public int reasonValue() {
        return reasonValue;
    }

    /**
     * Name the reason as answers to browsers do.
     *
     * @return for example {@code REVOKED}; {@code NOT_ACTIVE} for one that this version does not know
     */
    public String reasonName() {
        return shortName(DenialReason.forNumber(reasonValue));
    }

    /**
     * Tell why, for people.
     *
     * @return a text that may be empty, and is not stable
     */
    public String detail() {
        return detail;
    }

    private static String nameOf(Denial denial) {
        String name = shortName(DenialReason.forNumber(denial.getReasonValue()));
        return DenialReason.forNumber(denial.getReasonValue()) == null
                ? name + " (" + denial.getReasonValue() + ")"
                : name;
    }

    private static String shortName(DenialReason reason) {
        boolean named = reason != null && reason != DenialReason.DENIAL_REASON_UNSPECIFIED;
        return named ? reason.name().substring("DENIAL_REASON_".length()) : "NOT_ACTIVE";
    }
}
