package trustlayer.client;

/** A call failed: of {@code validate}, because the question is wrong; of any other, for whatever reason. */
public final class CallFailedException extends TrustLayerException {
    private static final long serialVersionUID = 1L;

    /** What is known of it. */
    private final Failure failure;

    CallFailedException(Failure failure, Throwable cause) {
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
