package trustlayer.client.middleware;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Whose address is taken for the client's. The hosts file of these tests knows names that look like addresses. */
class ClientAddressTest {
    private final ClientAddress behind = new ClientAddress(List.of("10.0.0.0/8", "2001:db8::/33", "127.0.0.1"));

    @ParameterizedTest
    @CsvSource(
            delimiter = '|',
            value = {
                "203.0.113.7|198.51.100.1|203.0.113.7",
                "10.1.2.3|198.51.100.1|198.51.100.1",
                "10.1.2.3|192.0.2.9, 198.51.100.1, 10.9.9.9|198.51.100.1",
                "127.0.0.1|198.51.100.1:8080|198.51.100.1",
                "[2001:db8::1]|[2001:db9::2]:80|2001:db9:0:0:0:0:0:2",
                "10.1.2.3|::ffff:198.51.100.1|198.51.100.1",
                "10.1.2.3|192.0.2.9, unknown|''",
                "10.1.2.3|192.0.2.9,|''",
                "10.1.2.3|1|''",
                "10.1.2.3|999.1.1.1|''",
                "10.1.2.3|256.0.0.1|''",
                "10.1.2.3|[abc.de]|''",
                "10.1.2.3|[999.1.1.1]:80|''",
                "10.1.2.3|.::1|''",
                "10.1.2.3|255.255.255.255|255.255.255.255",
                "10.1.2.3|010.0.0.1|''",
                "10.1.2.3|10.4.5.6|''",
                "10.1.2.3|''|''",
                "2001:db8:8000::1|192.0.2.9|2001:db8:8000:0:0:0:0:1",
            })
    void theLastAddressThatIsNoTrustedProxysIsTheClients(String peer, String header, String expected) {
        assertEquals(expected, behind.find(peer, List.of(header)));
    }

    @Test
    void linesAreReadFromTheLast() {
        assertEquals("198.51.100.1", behind.find("10.1.2.3", List.of("192.0.2.9", "198.51.100.1, 10.0.0.1")));
    }

    @Test
    void aHeaderOfTooManyAddressesIsNotRead() {
        String proxies = ", 10.0.0.1".repeat(31);
        assertEquals("192.0.2.9", behind.find("10.1.2.3", List.of("192.0.2.9" + proxies)));
        assertEquals("", behind.find("10.1.2.3", List.of("203.0.113.9, 192.0.2.9", "10.0.0.1" + proxies)));
        assertEquals("", behind.find("10.1.2.3", List.of("192.0.2.8, 10.0.0.1" + ", 192.0.2.9".repeat(31))));
    }

    @Test
    void aUnixSocketHasNoAddress() {
        assertEquals("", behind.find(null, List.of("192.0.2.9")));
    }

    @Test
    void withoutTrustedProxiesTheHeaderIsNotLookedAt() {
        assertEquals("10.1.2.3", new ClientAddress(List.of()).find("10.1.2.3", List.of("198.51.100.1")));
    }

    @ParameterizedTest
    @ValueSource(strings = {"0.0.0.0/0", "example.org", "10.0.0.0/33", "10.0.0.0/x", ""})
    void whatIsNoNetworkIsRefused(String text) {
        assertThrows(IllegalArgumentException.class, () -> new ClientAddress(List.of(text)));
    }
}
