"""Which texts can name a client, and whose certificate is whose."""

import pytest

from flowless.domain.bridges import NO_CERTIFICATE, ClientCertificate, is_client_id

SPIFFE = "spiffe://example.org/ns/shop/sa/web"


@pytest.mark.parametrize(
    "text",
    [SPIFFE, "spiffe://a/b", "spiffe://trust_domain-1.x/A.b_c-d", "shop.internal", "shop", "a" * 63, "xn--a.example"],
)
def test_spiffe_ids_of_workloads_and_dns_names_can_be_bound_to(text: str) -> None:
    assert is_client_id(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "spiffe://", "spiffe://example.org", "spiffe://example.org/", "spiffe://example.org//a"),
        *(
            "spiffe://example.org/a/",
            "spiffe://example.org/a/../b",
            "spiffe://example.org/.",
            "spiffe://Example.org/a",
        ),
        *("spiffe://user@example.org/a", "spiffe://example.org:443/a", "spiffe://example.org/a?b"),
        *("spiffe://example.org/a#b", "spiffe://example.org/%61", "SPIFFE://example.org/a", "https://example.org/a"),
        *("*.example.org", "Shop.internal", "shop.internal.", ".internal", "-shop", "shop-", "a..b", "a" * 64),
        *("shop internal", "shop\n", "b\u00fccher.example", "spiffe://example.org/" + "a" * 2_048),
        ".".join(["a" * 60] * 5),
    ],
)
def test_what_names_nobody_or_more_than_one_is_refused(text: str) -> None:
    assert not is_client_id(text)


def test_a_certificate_is_a_clients_only_by_the_kind_of_name_that_was_bound() -> None:
    both = ClientCertificate(spiffe_ids=frozenset({SPIFFE}), dns_names=frozenset({"shop.internal", "other.internal"}))
    assert both.names(SPIFFE)
    assert both.names("shop.internal")
    assert not both.names("spiffe://example.org/ns/shop/sa/we")
    assert not both.names("internal")
    assert not ClientCertificate(dns_names=frozenset({SPIFFE})).names(SPIFFE)
    assert not ClientCertificate(spiffe_ids=frozenset({"shop.internal"})).names("shop.internal")


def test_a_certificate_of_two_spiffe_ids_is_nobodys() -> None:
    assert not ClientCertificate(spiffe_ids=frozenset({SPIFFE, "spiffe://example.org/other"})).names(SPIFFE)


def test_without_a_certificate_nobody_is_anybody() -> None:
    assert not NO_CERTIFICATE.names(SPIFFE)
    assert not NO_CERTIFICATE.names("shop.internal")
    assert not NO_CERTIFICATE.names("")
