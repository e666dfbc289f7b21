package trustlayer.client;

/** Nobody can know now whether the session is valid: neither a yes nor a denial. */
public final class ValidatorUnavailableException extends TrustLayerException {
    private static final long serialVersionUID = 1L;

    /** What is known of it. */
    private final Failure failure;

    ValidatorUnavailableException(Failure failure, Throwable cause) {
        super(failure.toString(), cause);
        this.failure = failure;
    }

    /**
     * Tell what is known of it.
     *
     * @return code, reason, text, when to try again, the fields that are wrong, the request id
     */
    public Failure failure() {
        return failure;
    }
}
