package trustlayer.client;

/** What all exceptions of this package are. None of them ever holds a session id. */
public abstract sealed class TrustLayerException extends RuntimeException
        permits SessionDeniedException, ValidatorUnavailableException, CallFailedException {
    private static final long serialVersionUID = 1L;

    TrustLayerException(String message, Throwable cause) {
        super(message, cause);
    }
}
