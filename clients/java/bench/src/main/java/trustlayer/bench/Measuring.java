package trustlayer.bench;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.stream.LongStream;

/** Makes one call again and again in as many threads as calls shall be in flight, and times every one. */
final class Measuring {
    private final long warmupNanos;
    private final long nanos;

    Measuring(double warmupSeconds, double seconds) {
        warmupNanos = (long) (warmupSeconds * 1e9);
        nanos = (long) (seconds * 1e9);
    }

    /** Measure; the result is what is printed. Throws what a call throws. */
    Map<String, Object> of(String what, int concurrency, Callable<?> call) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(concurrency);
        try {
            long counted = System.nanoTime() + warmupNanos;
            List<Future<Times>> running = new ArrayList<>();
            for (int number = 0; number < concurrency; number++) {
                running.add(threads.submit(() -> loop(call, counted, counted + nanos)));
            }
            List<Times> all = new ArrayList<>();
            for (Future<Times> one : running) {
                all.add(one.get());
            }
            long ended = all.stream().mapToLong(Times::ended).max().orElseThrow();
            long[] sorted = all.stream().flatMapToLong(Times::counted).sorted().toArray();
            return Map.of(
                    "what",
                    what,
                    "concurrency",
                    concurrency,
                    "calls",
                    sorted.length,
                    "p50_us",
                    quantile(sorted, 0.5) / 1e3,
                    "p99_us",
                    quantile(sorted, 0.99) / 1e3,
                    "per_second",
                    sorted.length / ((ended - counted) / 1e9));
        } catch (ExecutionException failed) {
            throw new IllegalStateException(what + " failed", failed.getCause());
        } finally {
            threads.shutdownNow();
            threads.awaitTermination(1, TimeUnit.SECONDS);
        }
    }

    private static Times loop(Callable<?> call, long counted, long until) throws Exception {
        long[] times = new long[1024];
        int count = 0;
        long begun = System.nanoTime();
        while (begun - until < 0) {
            call.call();
            long ended = System.nanoTime();
            if (begun - counted >= 0) {
                if (count == times.length) {
                    times = Arrays.copyOf(times, 2 * count);
                }
                times[count++] = ended - begun;
            }
            begun = ended;
        }
        return new Times(times, count, begun);
    }

    /** Nearest rank. */
    private static double quantile(long[] sorted, double share) {
        return sorted[Math.max(0, (int) Math.ceil(share * sorted.length) - 1)];
    }

    /** Nanoseconds of each call that counts, and when the last one ended. */
    private record Times(long[] nanos, int count, long ended) {
        LongStream counted() {
            return Arrays.stream(nanos, 0, count);
        }
    }
}
