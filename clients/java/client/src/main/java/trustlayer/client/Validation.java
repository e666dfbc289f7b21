package trustlayer.client;

import trustlayer.v1.Freshness;
import trustlayer.v1.Session;

/**
 * A yes: the session is active for this request.
 *
 * @param session whose it is, and since when
 * @param freshness how old the answer can be at most
 */
public record Validation(Session session, Freshness freshness) {}
