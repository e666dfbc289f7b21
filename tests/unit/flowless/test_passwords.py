"""Which new passwords are accepted."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.adapters.passwords.breached import NoBreachedPasswords
from flowless.adapters.passwords.common import CommonPasswordList
from flowless.domain.fields import Fields
from flowless.domain.passwords import MAX_CHARS, has_length, normalised, weakness
from flowless.domain.users import Profile
from flowless.services.passwords import PasswordPolicy, words_of
from trust_core.errors import TrustError

COMMON = CommonPasswordList()
PROFILE = Profile(user_name="countess", name="Zoe\u0308la Ada", last_name="Byron-King")
ADA = words_of("augusta.lovelace@analytical.example", PROFILE)


def _problem(password: str, *, minimum: int = 12, own_words: list[str] = ADA) -> str:
    policy = PasswordPolicy(
        minimum=minimum, context_words=["Trustworthy Shop"], common=COMMON, breached=NoBreachedPasswords()
    )
    fields = Fields()
    assert policy.check("password", password, own_words=own_words, fields=fields) == normalised(password)
    try:
        fields.refuse()
    except TrustError as error:
        return error.violations[0].description
    return ""


# --- length and form --------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec="utf-8"), max_size=400), st.integers(8, 64))
def test_length_counts_characters_of_the_normalised_form(password: str, minimum: int) -> None:
    form = unicodedata.normalize("NFKC", password)
    assert has_length(password, normalised(password), minimum=minimum) == (minimum <= len(form) <= MAX_CHARS)


@given(st.text(max_size=300))
def test_every_way_to_type_a_password_has_one_form(password: str) -> None:
    forms = {normalised(unicodedata.normalize(form, password)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert forms == {normalised(password)}
    assert normalised(normalised(password)) == normalised(password)


@given(st.text(st.characters(codec="utf-8"), min_size=12, max_size=256).filter(lambda text: len(set(text)) > 8))
def test_no_composition_is_asked_for(password: str) -> None:
    """Whatever is refused within the length is refused for being guessable, never for lacking a kind of character."""
    problem = _problem(password, own_words=[])
    assert problem == "" or problem.startswith(("too common", "too simple", "made of", "12 to 256"))


@pytest.mark.parametrize(
    ("password", "accepted"),
    [
        ("rowan tree9", False),
        ("rowan tree 9", True),
        ("r" + "owan tree " * 25 + "56789", True),
        ("r" + "owan tree " * 25 + "567890", False),
        ("x" * 10_000_000, False),
        ("ﬃ" * 4 + "rowan", True),
        ("e\u0301owan tree" + "s", False),
        ("\ufdfa" * 200, False),  # two hundred signs become thousands of letters
    ],
)
def test_length_counts_after_normalisation(password: str, accepted: bool) -> None:
    assert (_problem(password) == "") is accepted


def test_the_minimum_is_the_deployments() -> None:
    assert _problem("rowan tre", minimum=8) == ""
    assert "15 to 256" in _problem("rowan tree 45", minimum=15)


# --- what is easy to guess --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "password",
    [
        "passwordpassword",
        "Password1234",
        "P@ssw0rd!2024",
        "Sunshine!!!!",
        "QWERTYUIOP12",
        "123456789012",
        "iloveyou1234567",
    ],
)
def test_a_common_password_is_refused_with_digits_and_marks_around_it_too(password: str) -> None:
    assert _problem(password) != ""


@pytest.mark.parametrize(
    "password",
    [
        "aaaaaaaaaaaa",
        "abababababab",
        "abc1abc1abc1a",
        "abcdefghijklm",
        "zyxwvutsrqpon",
        "890123456789",
        "12345678901234!",
        "aaaaaaaaaaaab",
        "adminadmin12",
        "passwordpassword1",
        "pass\u200bword1234",
    ],
)
def test_a_repetition_or_a_sequence_is_refused(password: str) -> None:
    assert _problem(password) != ""


@pytest.mark.parametrize(
    "password",
    [
        "augustalovelace",
        "Augusta.Lovelace",
        "lovelace-countess",
        "Byron King 2024",
        "analytical123",
        "AUGUSTA.LOVELACE@analytical.example",
        "trustworthy shop!",
        "TrustworthyShop1",
        "zo\u00ebla zo\u00ebla 24",
    ],
)
def test_a_password_of_ones_own_words_or_the_services_is_refused(password: str) -> None:
    assert "words" in _problem(password)


@pytest.mark.parametrize(
    "password",
    [
        "correct horse battery staple",
        "lovelace rides a purple bicycle",
        "naïve façade çedilla",
        "密码很长也很难猜到的一句话啊",
        "tr0ub4dor&3xkcd",
    ],
)
def test_a_password_that_only_looks_odd_is_accepted(password: str) -> None:
    assert _problem(password) == ""


@given(st.sampled_from(sorted(filter(str.isalpha, COMMON.load()))), st.text("0123456789!. ", max_size=6))
def test_every_common_word_is_refused_whatever_digits_and_marks_surround_it(entry: str, around: str) -> None:
    for password in (entry + around, around + entry, entry.upper() + around):
        assert weakness(password, common=COMMON, own_words=()) != ""


@given(st.text(min_size=1, max_size=30), st.integers(2, 8))
def test_every_repetition_is_refused(unit: str, times: int) -> None:
    assert weakness(unit * times, common=(), own_words=()) != ""


def test_a_deployments_own_list_adds_to_the_one_that_is_built_in(tmp_path: Path) -> None:
    file = tmp_path / "common.txt"
    file.write_text("Winter is Coming Soon\n\n  spaced out phrase  \n")
    found = CommonPasswordList(file=file)
    assert "winter is coming soon" in found
    assert "spaced out phrase" in found
    assert "password" in found
    assert "" not in found
