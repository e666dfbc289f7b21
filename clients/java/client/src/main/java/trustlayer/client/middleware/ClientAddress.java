package trustlayer.client.middleware;

import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Whose request is it, by address: the peer's, or, where that is a trusted proxy, the last address in X-Forwarded-For that
 * is none.
 *
 * <p>What cannot be read where the client's address should stand is no client IP, never a guess: whatever stands left of it
 * the client wrote itself.
 */
final class ClientAddress {
    private static final int MOST_ELEMENTS = 32;
    private static final String NUMBER = "(?:0|[1-9][0-9]{0,2})";
    private static final Pattern V4 = Pattern.compile("(" + NUMBER + "(?:\\." + NUMBER + "){3})(?::[0-9]{1,5})?");
    private static final Pattern V6 = Pattern.compile("\\[([0-9A-Fa-f:.]{2,45})](?::[0-9]{1,5})?");
    private static final Pattern BARE_V6 = Pattern.compile("([0-9A-Fa-f.]*:[0-9A-Fa-f:.]+)");

    private final List<Network> trusted;

    /** Take networks of trusted proxies, for example {@code 10.0.0.0/8}. */
    ClientAddress(List<String> trusted) {
        this.trusted = trusted.stream().map(Network::of).toList();
    }

    /** Return the client IP; empty when there is none. {@code lines}: of X-Forwarded-For, in their order. */
    String find(String peer, List<String> lines) {
        InetAddress current = read(peer.replaceFirst("%.*", ""));
        List<String> elements = new ArrayList<>();
        lines.forEach(line -> elements.addAll(Arrays.asList(line.split(",", -1))));
        int last = elements.size() - 1;
        int looked = 0;
        while (current != null && isTrusted(current)) {
            boolean more = last >= 0 && looked++ < MOST_ELEMENTS;
            current = more ? read(elements.get(last--).strip()) : null;
        }
        return current == null ? "" : current.getHostAddress();
    }

    private boolean isTrusted(InetAddress address) {
        return trusted.stream().anyMatch(network -> network.holds(address.getAddress()));
    }

    /** Read an address with or without a port; {@code null} for all else. No name is ever looked up. */
    private static InetAddress read(String text) {
        for (Pattern pattern : List.of(V4, V6, BARE_V6)) {
            Matcher found = pattern.matcher(text);
            if (found.matches()) {
                try {
                    return InetAddress.getByName(found.group(1));
                } catch (UnknownHostException notOne) {
                    return null;
                }
            }
        }
        return null;
    }

    private record Network(byte[] address, int prefix) {
        static Network of(String text) {
            String[] parts = text.split("/", 2);
            InetAddress address = read(parts[0]);
            if (address == null) {
                throw new IllegalArgumentException("not the network of a trusted proxy: " + text);
            }
            int bits = 8 * address.getAddress().length;
            int prefix = parts.length == 1 ? bits : Integer.parseInt(parts[1]);
            if (prefix < 1 || prefix > bits) {
                throw new IllegalArgumentException("not the network of a trusted proxy: " + text);
            }
            return new Network(address.getAddress(), prefix);
        }

        boolean holds(byte[] other) {
            if (other.length != address.length) {
                return false;
            }
            for (int bit = 0; bit < prefix; bit++) {
                int mask = 0x80 >> bit % 8;
                if ((other[bit / 8] & mask) != (address[bit / 8] & mask)) {
                    return false;
                }
            }
            return true;
        }
    }
}
