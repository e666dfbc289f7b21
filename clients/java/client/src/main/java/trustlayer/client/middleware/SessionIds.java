package trustlayer.client.middleware;

import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

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
