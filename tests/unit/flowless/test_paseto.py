"""Trust tokens as text: the official vectors, the one spelling, and whatever else is sent."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from pyseto.versions.v4 import V4Public

from flowless.adapters.paseto import PasetoTokens, decoded, encoded, footer_of, verified_message
from flowless.domain.signing_keys import KeyState, SigningKey
from flowless.domain.trust_tokens import implicit_assertion, jti_of
from tests.support import paseto_vectors as vectors
from tests.support.stores import NOW
from trust_core.errors import Reason, TrustError

WRAPPING_KEY = bytes(range(32))
IMPLICIT = implicit_assertion("magic_link", "shop")
CLAIMS = b'{"jti":"00112233445566778899aabbccddeeff"}'


def _random(size: int) -> bytes:
    return bytes(range(size))


TOKENS = PasetoTokens(wrapping_keys=[WRAPPING_KEY], random=_random)
KEY = TOKENS.new_key(now=NOW)
TEXT = TOKENS.sign(KEY, CLAIMS, implicit=IMPLICIT)


def _read(text: str, *, key: SigningKey = KEY, implicit: bytes = IMPLICIT) -> bytes | None:
    parsed = TOKENS.parse(text)
    return None if parsed is None else TOKENS.verified(parsed, key, implicit=implicit)


# --- the official vectors ---------------------------------------------------------------------------------------


def _verify_vector(vector: vectors.Vector) -> bytes | None:
    """What the parser's own steps make of a vector; its footers are not ours, so it is taken apart here."""
    header, _, rest = vector.token.partition("v4.public.")
    message, _, footer = rest.partition(".")
    body, tail = decoded(message), decoded(footer)
    if header or not rest or body is None or tail is None or tail != vector.footer.encode():
        return None
    public = V4Public(Ed25519PublicKey.from_public_bytes(vectors.PUBLIC_KEY))
    return verified_message(public, body, footer=tail, implicit=vector.implicit.encode())


@pytest.mark.parametrize("vector", vectors.SIGNED, ids=lambda vector: vector.name)
def test_what_must_verify_verifies(vector: vectors.Vector) -> None:
    assert _verify_vector(vector) == vectors.MESSAGE
    assert _verify_vector(replace(vector, implicit="another")) is None


@pytest.mark.parametrize("vector", vectors.SIGNED, ids=lambda vector: vector.name)
def test_signing_gives_the_official_text(vector: vectors.Vector) -> None:
    private = TOKENS._unwrap(_official_key())
    footer = vector.footer.encode()
    signature = private.sign(vectors.MESSAGE, footer, vector.implicit.encode())
    text = f"v4.public.{encoded(vectors.MESSAGE + signature)}" + (f".{encoded(footer)}" if footer else "")
    assert text == vector.token


@pytest.mark.parametrize("vector", vectors.FAILING, ids=lambda vector: vector.name)
def test_what_must_fail_fails(vector: vectors.Vector) -> None:
    assert _verify_vector(vector) is None
    assert TOKENS.parse(vector.token) is None


def test_a_vector_that_verifies_is_still_no_trust_token() -> None:
    for vector in vectors.SIGNED:
        assert TOKENS.parse(vector.token) is None


@pytest.mark.parametrize(("public", "key_id"), vectors.PUBLIC_IDS.items())
def test_a_public_key_has_its_official_id(public: str, key_id: str) -> None:
    key = V4Public(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    assert key.to_paserk_id() == f"k4.pid.{key_id}"


@pytest.mark.parametrize(("wrapping_key", "plain", "wrapped"), vectors.WRAPPED)
def test_an_official_wrapped_key_opens(wrapping_key: str, plain: str, wrapped: str) -> None:
    tokens = PasetoTokens(wrapping_keys=[bytes.fromhex(wrapping_key)], random=_random)
    key = replace(KEY, public_key=bytes.fromhex(plain)[32:], wrapped=wrapped)
    assert tokens.opens(key)
    assert tokens.opens(tokens.rewrapped(key))
    assert not TOKENS.opens(key)


@pytest.mark.parametrize("wrapped", [*vectors.NOT_WRAPPED, "", "k4", "k4.secret-wrap.pie.", "k4.secret-wrap.pie.é"])
@pytest.mark.parametrize("wrapping_key", [vector[0] for vector in vectors.WRAPPED])
def test_what_is_no_wrapped_key_does_not_open(wrapped: str, wrapping_key: str) -> None:
    tokens = PasetoTokens(wrapping_keys=[bytes.fromhex(wrapping_key)], random=_random)
    assert not tokens.opens(replace(KEY, wrapped=wrapped))


def _official_key() -> SigningKey:
    tokens = PasetoTokens(wrapping_keys=[WRAPPING_KEY], random=lambda _: vectors.SEED)
    key = tokens.new_key(now=NOW)
    assert key.public_key == vectors.PUBLIC_KEY
    return key


# --- one spelling -----------------------------------------------------------------------------------------------


def test_a_token_that_was_signed_is_read() -> None:
    assert _read(TEXT) == CLAIMS


def test_signing_again_gives_the_same_text() -> None:
    assert TOKENS.sign(KEY, CLAIMS, implicit=IMPLICIT) == TEXT


def _spellings() -> dict[str, str]:
    version, kind, message, footer = TEXT.split(".")
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = last[last.index(footer[-1]) ^ 1]
    standard = TEXT.replace("-", "+").replace("_", "/")
    spelt = {
        "padding of the message": f"{version}.{kind}.{message}==.{footer}",
        "padding of the footer": f"{TEXT}=",
        "unused bits": f"{TEXT[:-1]}{other}",
        "upper case": TEXT.upper(),
        "upper-case header": TEXT.replace("v4.public", "V4.PUBLIC"),
        "a space before": f" {TEXT}",
        "a line end": f"{TEXT}\n",
        "a line end inside": TEXT[:40] + "\n" + TEXT[40:],
        "a part more": f"{TEXT}.",
        "no footer": f"{version}.{kind}.{message}",
        "a footer of another form": f"{version}.{kind}.{message}.{encoded(b' ' + footer_of(KEY.key_id))}",
        "another kind": TEXT.replace("v4.public", "v4.local"),
        "another version": TEXT.replace("v4.public", "v2.public"),
        "full-width digits": TEXT.replace("v4", "v４", 1),
    }
    if standard != TEXT:
        spelt["the other alphabet"] = standard
    return spelt


@pytest.mark.parametrize("name", _spellings())
def test_another_spelling_of_a_token_is_none(name: str) -> None:
    text = _spellings()[name]
    assert text != TEXT
    assert TOKENS.parse(text) is None


def test_the_official_text_with_unused_bits_is_no_base64url() -> None:
    last = next(vector for vector in vectors.FAILING if vector.name == "4-F-4")
    assert decoded(last.token.split(".")[2]) is None


@given(st.binary(max_size=200))
def test_every_byte_string_has_one_spelling(data: bytes) -> None:
    text = encoded(data)
    assert decoded(text) == data
    for other in (f"{text}=", f"{text}==", f"{text}\n", f" {text}"):
        assert decoded(other) is None


@given(
    st.text(max_size=300)
    | st.from_regex(r"v4\.public\.[A-Za-z0-9_=-]{0,200}(\.[A-Za-z0-9_=-]{0,80})?", fullmatch=True)
)
def test_whatever_is_sent_is_read_or_refused_without_an_exception(text: str) -> None:
    assert _read(text) is None


@given(st.data())
def test_a_token_with_one_character_changed_is_refused(data: Any) -> None:
    at = data.draw(st.integers(0, len(TEXT) - 1))
    character = data.draw(st.characters(codec="utf-8").filter(lambda c: c != TEXT[at]))
    assert _read(TEXT[:at] + character + TEXT[at + 1 :]) is None


def test_an_overlong_token_is_not_even_decoded() -> None:
    assert TOKENS.parse("v4.public." + "A" * 5_000 + "." + encoded(footer_of(KEY.key_id))) is None


# --- keys and what is bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("purpose", "audience"), [("password_reset", "shop"), ("magic_link", "blog"), ("", "")])
def test_a_token_of_another_purpose_or_audience_does_not_verify(purpose: str, audience: str) -> None:
    assert _read(TEXT, implicit=implicit_assertion(purpose, audience)) is None


def test_purpose_and_audience_cannot_be_shifted_into_each_other() -> None:
    assert implicit_assertion('a","purpose":"b', "c") != implicit_assertion("b", 'c","purpose":"a')


def test_a_token_of_another_key_does_not_verify_under_a_known_keys_name() -> None:
    foreign = PasetoTokens(wrapping_keys=[WRAPPING_KEY], random=lambda size: b"\7" * size).new_key(now=NOW)
    text = TOKENS.sign(replace(foreign, key_id=KEY.key_id), CLAIMS, implicit=IMPLICIT)
    assert _read(text) is None
    assert _read(TOKENS.sign(foreign, CLAIMS, implicit=IMPLICIT)) is None


def test_a_private_part_opens_only_for_its_own_public_part() -> None:
    assert not TOKENS.opens(replace(KEY, public_key=bytes(32)))


def test_without_a_key_to_open_it_nothing_is_signed() -> None:
    for tokens in (
        PasetoTokens(wrapping_keys=[], random=_random),
        PasetoTokens(wrapping_keys=[b"\1" * 32], random=_random),
    ):
        with pytest.raises(TrustError) as caught:
            tokens.sign(KEY, CLAIMS, implicit=IMPLICIT)
        assert caught.value.reason is Reason.SIGNING_NOT_CONFIGURED


def test_a_private_part_is_wrapped_anew_under_the_first_key() -> None:
    both = PasetoTokens(wrapping_keys=[b"\1" * 32, WRAPPING_KEY], random=_random)
    rewrapped = both.rewrapped(KEY)
    assert PasetoTokens(wrapping_keys=[b"\1" * 32], random=_random).sign(rewrapped, CLAIMS, implicit=IMPLICIT) == TEXT
    assert rewrapped == replace(KEY, wrapped=rewrapped.wrapped)


def test_a_retired_key_verifies_until_its_end_and_a_destroyed_one_never() -> None:
    retired = replace(KEY, state=KeyState.RETIRED, expires_at=NOW)
    assert not retired.verifies(NOW)
    assert replace(KEY, state=KeyState.ACTIVE).verifies(NOW)
    assert not replace(KEY, state=KeyState.DESTROYED).verifies(NOW)


@pytest.mark.parametrize("claims", [b"", b"{}", b"[]", b"null", b'{"jti":1}', b'{"jti":"A"}', b"\xff", b"[" * 5_000])
def test_claims_without_a_jti_of_our_form_name_no_token(claims: bytes) -> None:
    assert jti_of(claims) is None
    assert jti_of(CLAIMS) == "00112233445566778899aabbccddeeff"
