"""Opaque identifiers: one spelling each, garbage recognised without asking anybody, never in a log."""

import math
import os
import re
from hashlib import sha256

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trust_core.identifiers import (
    BRIDGE_SECRET_PREFIX,
    DIGEST_BYTES,
    SESSION_ID_PREFIX,
    bridge_of_secret,
    digest,
    is_bridge_id,
    is_session_handle,
    is_user_id,
    new_bridge_id,
    new_bridge_secret,
    new_session_handle,
    new_session_id,
    new_user_id,
    redact,
    session_digest,
)

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SESSION_ID_LENGTH = 54
BRIDGE_SECRET_LENGTH = 71

entropy = st.binary(min_size=32, max_size=32)
awkward_text = st.text(st.characters(codec=None)) | st.sampled_from(
    ["", "\0", "sess_", "sess_\0", "sess_" + "é" * 49, "sess_" + "０" * 49, "\ud800", "brdg_", "sess_" * 1_000]
)


def _session_id(random: bytes) -> str:
    return new_session_id(lambda _: random)


def _bridge_secret(random: bytes) -> str:
    return new_bridge_secret("0123456789abcdef", lambda _: random)


@given(entropy)
@example(bytes(32))
@example(b"\xff" * 32)
def test_a_session_id_made_here_is_recognised_and_digested(random: bytes) -> None:
    session_id = _session_id(random)
    assert len(session_id) == SESSION_ID_LENGTH
    assert session_id.startswith(SESSION_ID_PREFIX)
    assert session_digest(session_id) == sha256(session_id.encode()).digest() == digest(session_id)


@given(entropy)
@example(bytes(32))
@example(b"\xff" * 32)
def test_a_bridge_secret_made_here_names_its_bridge(random: bytes) -> None:
    secret = _bridge_secret(random)
    assert len(secret) == BRIDGE_SECRET_LENGTH
    assert secret.startswith(BRIDGE_SECRET_PREFIX)
    assert bridge_of_secret(secret) == "0123456789abcdef"


@given(entropy, st.integers(0, SESSION_ID_LENGTH - 1), st.characters(codec=None))
def test_a_session_id_with_any_one_character_changed_is_refused(random: bytes, at: int, other: str) -> None:
    session_id = _session_id(random)
    changed = session_id[:at] + other + session_id[at + 1 :]
    assert (session_digest(changed) is None) == (changed != session_id)


@given(entropy, st.integers(0, BRIDGE_SECRET_LENGTH - 1), st.characters(codec=None))
def test_a_bridge_secret_with_any_one_character_changed_is_refused(random: bytes, at: int, other: str) -> None:
    secret = _bridge_secret(random)
    changed = secret[:at] + other + secret[at + 1 :]
    assert (bridge_of_secret(changed) is None) == (changed != secret)


@given(entropy, st.sampled_from(BASE62))
def test_a_session_id_shortened_lengthened_or_padded_is_refused(random: bytes, more: str) -> None:
    session_id = _session_id(random)
    for other in (session_id[:-1], session_id[1:], session_id + more, f" {session_id}", f"{session_id}\n"):
        assert session_digest(other) is None


@given(entropy)
def test_one_kind_of_secret_is_never_taken_for_another(random: bytes) -> None:
    assert bridge_of_secret(_session_id(random)) is None
    assert session_digest(_bridge_secret(random)) is None


@given(awkward_text)
def test_arbitrary_text_is_refused_without_an_exception(text: str) -> None:
    assert session_digest(text) is None
    assert bridge_of_secret(text) is None
    assert isinstance(redact(text), str)
    for recognise in (is_session_handle, is_user_id, is_bridge_id):
        assert recognise(text) in {True, False}


@given(entropy, entropy)
def test_different_randomness_makes_different_secrets(one: bytes, other: bytes) -> None:
    assert (_session_id(one) == _session_id(other)) == (one == other)
    assert (_bridge_secret(one) == _bridge_secret(other)) == (one == other)


@pytest.mark.parametrize("make", [new_session_id, lambda random: new_bridge_secret("0" * 16, random)])
def test_a_secret_takes_256_bits_from_the_generator(make: object) -> None:
    asked: list[int] = []

    def random(count: int) -> bytes:
        asked.append(count)
        return os.urandom(count)

    assert callable(make)
    make(random)
    assert sum(asked) * 8 >= 256
    assert 43 * math.log2(62) >= 256  # the characters can carry them


def test_public_names_have_their_form_and_are_no_secrets() -> None:
    assert re.fullmatch(r"sh_[0-9A-Za-z]{22}", new_session_handle(os.urandom))
    assert re.fullmatch(r"usr_[0-9A-Za-z]{22}", new_user_id(os.urandom))
    assert re.fullmatch(r"[0-9A-Za-z]{16}", new_bridge_id(os.urandom))
    assert is_session_handle(new_session_handle(os.urandom))
    assert is_user_id(new_user_id(os.urandom))
    assert is_bridge_id(new_bridge_id(os.urandom))


@pytest.mark.parametrize("recognise", [is_session_handle, is_user_id, is_bridge_id])
def test_a_secret_is_never_recognised_as_a_public_name(recognise: object) -> None:
    assert callable(recognise)
    assert not recognise(new_session_id(os.urandom))
    assert not recognise(new_bridge_secret(new_bridge_id(os.urandom), os.urandom))


def test_a_digest_has_the_length_that_the_proto_promises() -> None:
    assert len(digest(new_session_id(os.urandom))) == DIGEST_BYTES == 32


@given(entropy, st.text(), st.text())
def test_redaction_leaves_nothing_of_a_secret_but_its_prefix(random: bytes, before: str, after: str) -> None:
    for secret in (_session_id(random), _bridge_secret(random)):
        redacted = redact(f"{before} {secret} {after}")
        assert secret[-20:] not in redacted
        assert f"{secret[:5]}[redacted]" in redacted


@given(entropy, st.integers(13, SESSION_ID_LENGTH))
def test_redaction_also_finds_a_session_id_cut_short(random: bytes, length: int) -> None:
    assert redact(_session_id(random)[:length]) == "sess_[redacted]"


def test_redaction_finds_every_secret_and_keeps_handles_and_other_text() -> None:
    handle = new_session_handle(os.urandom)
    one, other = new_session_id(os.urandom), new_bridge_secret(new_bridge_id(os.urandom), os.urandom)
    text = f"{one},{other};session={handle} sess_short"
    assert redact(text) == f"sess_[redacted],brdg_[redacted];session={handle} sess_short"


def test_redaction_is_idempotent() -> None:
    once = redact(f"id {new_session_id(os.urandom)}")
    assert redact(once) == once


def test_a_trust_token_is_redacted_too() -> None:
    token = "v4.public." + "eyJqdGkiOiIw-_" * 9 + ".eyJraWQiOiJrNC5waWQ"
    assert "eyJqdGki" not in redact(f"asked with {token}")
