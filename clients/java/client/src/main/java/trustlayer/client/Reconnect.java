package trustlayer.client;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;
import java.util.concurrent.TimeUnit;

/**
 * Connects a channel anew within a second of its socket's return.
 *
 * <p>gRPC waits a second before its second attempt and then ever longer, which cannot be set. To try a Unix socket costs
 * next to nothing, so while a channel cannot connect, its wait is cut short after 20 ms, then twice as long each time, up to
 * 500 ms. At most one such wait goes on at a time, and none after the channel's shutdown.
 */
final class Reconnect {
    private static final long FIRST_MILLIS = 20;
    private static final long LONGEST_MILLIS = 500;

    private final ManagedChannel channel;

    private Reconnect(ManagedChannel channel) {
        this.channel = channel;
    }

    static void keep(ManagedChannel channel) {
        new Reconnect(channel).watch();
    }

    private void watch() {
        switch (channel.getState(false)) {
            case SHUTDOWN -> {}
            case TRANSIENT_FAILURE -> tryAgain(FIRST_MILLIS);
            default -> next();
        }
    }

    private void next() {
        channel.notifyWhenStateChanged(channel.getState(false), this::watch);
    }

    private void tryAgain(long millis) {
        Executor later = CompletableFuture.delayedExecutor(millis, TimeUnit.MILLISECONDS);
        later.execute(() -> {
            if (channel.getState(false) != ConnectivityState.TRANSIENT_FAILURE) {
                watch();
                return;
            }
            channel.resetConnectBackoff();
            tryAgain(Math.min(2 * millis, LONGEST_MILLIS));
        });
    }
}
