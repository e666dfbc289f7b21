package trustlayer.client;

import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.netty.channel.ChannelOption;
import io.grpc.netty.shaded.io.netty.channel.EventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.MultiThreadIoEventLoopGroup;
import io.grpc.netty.shaded.io.netty.channel.nio.NioIoHandler;
import io.grpc.netty.shaded.io.netty.channel.socket.nio.NioDomainSocketChannel;
import io.grpc.netty.shaded.io.netty.util.concurrent.DefaultThreadFactory;
import java.net.UnixDomainSocketAddress;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;

/** A channel to a Unix socket with the one thread that serves it, over the JDK's own Unix sockets. */
final class UnixChannel {
    private final EventLoopGroup thread =
            new MultiThreadIoEventLoopGroup(1, new DefaultThreadFactory("trustlayer", true), NioIoHandler.newFactory());
    private final ManagedChannel channel;

    UnixChannel(Path socket) {
        channel = NettyChannelBuilder.forAddress(UnixDomainSocketAddress.of(socket))
                .channelType(NioDomainSocketChannel.class, UnixDomainSocketAddress.class)
                .eventLoopGroup(thread)
                // gRPC sets it, and Netty warns at each attempt to connect that a Unix socket has no such option.
                .withOption(ChannelOption.SO_KEEPALIVE, null)
                .overrideAuthority("localhost")
                .proxyDetector(address -> null)
                .usePlaintext()
                // gRPC's own repeats would make a call again whose UNAVAILABLE is an answer.
                .disableRetry()
                .disableServiceConfigLookUp()
                .build();
    }

    ManagedChannel channel() {
        return channel;
    }

    /** End calls in flight, the connection and the thread. */
    void close() {
        channel.shutdownNow();
        thread.shutdownGracefully(0, 1, TimeUnit.SECONDS);
    }
}
