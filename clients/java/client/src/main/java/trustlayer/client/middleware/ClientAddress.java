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
    private static final String NUMBER = "(0|[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5])";
    private static final String PORT = "(?::[0-9]{1,5})?";
    private static final Pattern V4 = Pattern.compile(NUMBER + "\\." + NUMBER + "\\." + NUMBER + "\\." + NUMBER + PORT);
    /** With a colon, and none of a name's letters in front: InetAddress reads it or throws, and looks nothing up. */
    private static final String V6 = "([0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,40})";

    private static final List<Pattern> V6S = List.of(Pattern.compile(V6), Pattern.compile("\\[" + V6 + "]" + PORT));

    private final List<Network> trusted;

    /** Take networks of trusted proxies, for example {@code 10.0.0.0/8}. */
    ClientAddress(List<String> trusted) {
        this.trusted = trusted.stream().map(Network::of).toList();
    }

    /** Return the client IP; empty when there is none. {@code peer}: null for a Unix socket; {@code lines}: of the header. */
    String find(String peer, List<String> lines) {
        InetAddress current = peer == null ? null : read(peer.replaceFirst("%.*", ""));
        List<String> elements = new ArrayList<>();
        lines.forEach(line -> elements.addAll(Arrays.asList(line.split(",", -1))));
        int last = elements.size() > MOST_ELEMENTS ? -1 : elements.size() - 1;
        while (current != null && isTrusted(current)) {
            current = last >= 0 ? read(elements.get(last--).strip()) : null;
        }
        return current == null ? "" : current.getHostAddress();
    }

    private boolean isTrusted(InetAddress address) {
        return trusted.stream().anyMatch(network -> network.holds(address.getAddress()));
    }

    /** Read an address with or without a port; {@code null} for all else. No name is ever looked up. */
    private static InetAddress read(String text) {
        try {
            Matcher four = V4.matcher(text);
            if (four.matches()) {
                byte[] bytes = new byte[4];
                for (int index = 0; index < bytes.length; index++) {
                    bytes[index] = (byte) Integer.parseInt(four.group(index + 1));
                }
                return InetAddress.getByAddress(bytes);
            }
            for (Pattern pattern : V6S) {
                Matcher six = pattern.matcher(text);
                if (six.matches()) {
                    return InetAddress.getByName(six.group(1));
                }
            }
            return null;
        } catch (UnknownHostException notOne) {
            return null;
        }
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
