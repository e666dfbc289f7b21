"""The client IP: what a client writes into a header never decides it."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bridge_sidecar.client_ip import FORWARDED, MAX_ELEMENTS, X_FORWARDED_FOR, ClientIp, trusted_network

CLIENT = "203.0.113.7"
PROXY = "10.0.0.1"
TRUSTED = tuple(map(trusted_network, ("10.0.0.0/8", "fd00::/8", "192.0.2.1")))
XFF = ClientIp(header=X_FORWARDED_FOR, trusted=TRUSTED)
RFC7239 = ClientIp(header=FORWARDED, trusted=TRUSTED)


def _is_client(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not any(address in network for network in TRUSTED) and getattr(address, "ipv4_mapped", None) is None


public = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str).filter(_is_client)
proxies = st.one_of(
    st.ip_addresses(network="10.0.0.0/8"), st.ip_addresses(network="fd00::/8"), st.just("192.0.2.1")
).map(str)
header_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)
spoofed_lines = st.lists(
    st.one_of(
        header_text,
        st.lists(
            st.one_of(public, proxies, st.sampled_from(["unknown", "_x", '"', "", "for=", 'for="'])), max_size=5
        ).map(", ".join),
        st.sampled_from(['for="', 'for=10.0.0.1, for="\\', "for=203.0.113.9;", 'for="[fd00::1]', '\\"', "," * 40]),
    ),
    max_size=3,
)


def test_a_peer_that_is_no_trusted_proxy_is_the_client_whatever_it_sends() -> None:
    assert XFF.find(peer=CLIENT, lines=["198.51.100.1", PROXY]) == CLIENT


@given(peer=public, lines=spoofed_lines)
def test_no_header_changes_the_address_of_an_untrusted_peer(peer: str, lines: list[str]) -> None:
    expected = str(ipaddress.ip_address(peer))
    assert XFF.find(peer=peer, lines=lines) == expected
    assert RFC7239.find(peer=peer, lines=lines) == expected


@given(client=public, chain=st.lists(proxies, max_size=4), spoofed=spoofed_lines, same_line=st.booleans())
@example(client=CLIENT, chain=[], spoofed=["198.51.100.1"], same_line=True)
def test_what_a_client_prepends_to_x_forwarded_for_never_matters(
    client: str, chain: list[str], spoofed: list[str], same_line: bool
) -> None:
    written = ", ".join([client, *chain])
    lines = [*spoofed[:-1], f"{spoofed[-1]}, {written}"] if spoofed and same_line else [*spoofed, written]
    assert XFF.find(peer=PROXY, lines=lines) == str(ipaddress.ip_address(client))


def _node(address: str) -> str:
    return f'"[{address}]:4711"' if ":" in address else address


@given(
    client=public,
    chain=st.lists(proxies, max_size=3),
    spoofed=spoofed_lines,
    same_line=st.booleans(),
    more=st.sampled_from(["", ";proto=https", ';host="a,b"', ';host="a\\"b,c";by=_p', ";"]),
)
@example(client=CLIENT, chain=[], spoofed=['for="'], same_line=True, more=';host="a,b"')
def test_what_a_client_prepends_to_forwarded_never_matters(
    client: str, chain: list[str], spoofed: list[str], same_line: bool, more: str
) -> None:
    written = ", ".join(f"for={_node(address)}{more}" for address in [client, *chain])
    lines = [*spoofed[:-1], f"{spoofed[-1]}, {written}"] if spoofed and same_line else [*spoofed, written]
    assert RFC7239.find(peer=PROXY, lines=lines) == str(ipaddress.ip_address(client))


@pytest.mark.parametrize(
    ("element", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ('"[2001:db8::7]:4711"', "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:203.0.113.7]:80", "203.0.113.7"),
        ("\t 203.0.113.7 ", "203.0.113.7"),
    ],
)
def test_an_element_may_be_written_in_every_usual_way(element: str, client: str) -> None:
    assert XFF.find(peer=PROXY, lines=[f"198.51.100.1,{element}"]) == client


@pytest.mark.parametrize(
    "element",
    [
        "", " ", "unknown", "_hidden", "203.0.113", "203.0.113.256", "203.0.113.07", "203.0.113.7:", "203.0.113.7:x",
        "203.0.113.7:123456", "[2001:db8::7", "2001:db8::7]", "[2001:db8::7]x", "fe80::1%eth0", "[fe80::1%25eth0]",
        "localhost", "203.0.113.7 198.51.100.1", "0x7f.1", "\u0661.1.1.1", '"', "for=203.0.113.7", "1" * 10_000,
    ],
)  # fmt: skip
def test_garbage_where_the_client_should_stand_is_no_client_ip_and_never_what_stands_beside_it(element: str) -> None:
    assert XFF.find(peer=PROXY, lines=[f"198.51.100.1, {element}"]) == ""
    assert XFF.find(peer=PROXY, lines=["198.51.100.1", f"{element}, 10.0.0.2"]) == ""


@pytest.mark.parametrize(
    "element",
    [
        "", "for=", "for=unknown", "for=_hidden", "proto=https", "203.0.113.7", "for=203.0.113.7;for=203.0.113.8",
        'for="203.0.113.7', 'for="203.0.113.7"x', "for = 203.0.113.7", "for=203.0.113.7 proto=http",
        ";for=203.0.113.7", 'for="[2001:db8::7"', f'host="{"a" * 10_000}";for=203.0.113.7',
    ],
)  # fmt: skip
def test_a_forwarded_element_without_one_readable_address_is_no_client_ip(element: str) -> None:
    assert RFC7239.find(peer=PROXY, lines=[f"for=198.51.100.1, {element}"]) == ""


@pytest.mark.parametrize(
    ("line", "client"),
    [
        ("for=203.0.113.7", "203.0.113.7"),
        ('For="[2001:db8::7]:4711"', "2001:db8::7"),
        ("proto=https; FOR=203.0.113.7 ;by=_p", "203.0.113.7"),
        ('for=198.51.100.1, for="203.0.113.7:80";host="x, y"', "203.0.113.7"),
        ('for="2\\03.0.113.7"', "203.0.113.7"),
    ],
)
def test_forwarded_is_read_as_rfc_7239_has_it(line: str, client: str) -> None:
    assert RFC7239.find(peer=PROXY, lines=[line]) == client


def test_trusted_proxies_are_crossed_over_several_lines() -> None:
    assert XFF.find(peer=PROXY, lines=["198.51.100.1", "203.0.113.7, 10.0.0.3", "fd00::2,192.0.2.1"]) == CLIENT


def test_a_trusted_proxy_is_never_the_client() -> None:
    assert XFF.find(peer=PROXY, lines=[]) == ""
    assert XFF.find(peer=PROXY, lines=["10.0.0.2, fd00::1"]) == ""


def test_an_ipv4_mapped_peer_is_its_ipv4_address() -> None:
    assert XFF.find(peer="::ffff:203.0.113.7", lines=[]) == CLIENT
    assert XFF.find(peer="::ffff:10.0.0.1", lines=[CLIENT]) == CLIENT


def test_a_peer_without_an_address_has_no_client_ip() -> None:
    assert XFF.find(peer="", lines=[CLIENT]) == ""
    assert XFF.find(peer="unix:", lines=[CLIENT]) == ""


def test_a_proxy_that_asks_itself_is_believed_for_its_own_element_alone() -> None:
    assert XFF.find(peer=None, lines=["198.51.100.1, 203.0.113.7"]) == CLIENT
    assert XFF.find(peer=None, lines=["198.51.100.1, 10.0.0.9"]) == "198.51.100.1"
    assert XFF.find(peer=None, lines=[]) == ""


def test_a_bounded_number_of_elements_is_looked_at() -> None:
    proxies = ["10.0.0.2"] * (MAX_ELEMENTS - 1)
    assert XFF.find(peer=PROXY, lines=[", ".join([CLIENT, *proxies])]) == CLIENT
    assert XFF.find(peer=PROXY, lines=[", ".join([CLIENT, *proxies, "10.0.0.2"])]) == ""


@given(peer=st.one_of(st.none(), header_text, public, proxies), lines=st.lists(header_text, max_size=4))
def test_the_answer_is_an_address_that_is_no_trusted_proxy_or_nothing(peer: str | None, lines: list[str]) -> None:
    for finder in (XFF, RFC7239):
        found = finder.find(peer=peer, lines=lines)
        assert not found or not any(ipaddress.ip_address(found) in network for network in TRUSTED)


@pytest.mark.parametrize(
    "text", ["0.0.0.0/0", "::/0", "10.0.0.1/8", "proxy", "", "10.0.0.0/33", "::ffff:10.0.0.0/104"]
)
def test_a_network_that_would_trust_too_much_or_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        trusted_network(text)
