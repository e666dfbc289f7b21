package trustlayer.client.middleware;

import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/** What was sent in the place of session ids: none, one, or more than one, which is no session id. */
final class SessionIds {
    private static final Pattern BEARER = Pattern.compile("bearer +([!-~]+)", Pattern.CASE_INSENSITIVE);
    private final Set<String> sent;

    private SessionIds(Set<String> sent) {
        this.sent = sent;
    }

    static SessionIds of(Iterable<String> values) {
        Set<String> sent = new LinkedHashSet<>();
        values.forEach(sent::add);
        return new SessionIds(sent);
    }

    /** Take the tokens of lines of the Authorization header; other schemes are somebody else's. */
    static SessionIds ofAuthorization(List<String> lines) {
        return of(lines.stream()
                .map(line -> BEARER.matcher(line.strip()))
                .filter(Matcher::matches)
                .map(found -> found.group(1))
                .toList());
    }

    /**
     * Take the values of the cookies of one name, as RFC 6265 has a server read them. Servlet containers pass over a cookie
     * whose value they do not like, which then would count as not sent.
     */
    static SessionIds ofCookies(List<String> lines, String name) {
        return of(lines.stream()
                .flatMap(line -> Stream.of(line.split(";")))
                .filter(pair -> pair.indexOf('=') >= 0)
                .filter(pair ->
                        without(" \t", pair.substring(0, pair.indexOf('='))).equals(name))
                .map(pair -> without("\"", without(" \t", pair.substring(pair.indexOf('=') + 1))))
                .toList());
    }

    /** Leave out these characters at both ends; in one pass, as a pattern would not do it for a header full of blanks. */
    private static String without(String characters, String text) {
        int begin = 0;
        int end = text.length();
        while (begin < end && characters.indexOf(text.charAt(begin)) >= 0) {
            begin++;
        }
        while (end > begin && characters.indexOf(text.charAt(end - 1)) >= 0) {
            end--;
        }
        return text.substring(begin, end);
    }

    boolean isEmpty() {
        return sent.isEmpty();
    }

    boolean isOne() {
        return sent.size() == 1;
    }

    String one() {
        return sent.iterator().next();
    }
}
