"""Words of mails and links: nearest language, nothing but ours in them, and mistakes said at the start."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.adapters.mail_templates import WITHOUT_LINK, MailTemplates, TemplateError
from flowless.adapters.mail_words import BUILT_IN_WORDS
from flowless.adapters.smtp import problem_of, sender_of
from flowless.domain.links import link_of, link_problem
from flowless.domain.mail import Letter, MailError
from flowless.domain.trust_tokens import BUILT_IN

LINK = "https://app.example/in?token=v4.public.x&next=1"
EXPIRES = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def _load(directory: Path | None, *, needed: tuple[str, ...] = (), default_locale: str = "en") -> MailTemplates:
    return MailTemplates.load(directory, needed=needed, default_locale=default_locale)


def _letter(texts: MailTemplates, *, template: str = "magic_link", locale: str = "") -> Letter:
    return texts.letter(template, locale=locale, link=LINK, expires_at=EXPIRES)


def test_every_purpose_and_notice_has_words_in_both_languages() -> None:
    for language in ("en", "de"):
        assert {template for template, tag in BUILT_IN_WORDS if tag == language} == BUILT_IN.keys() | WITHOUT_LINK
        for template in BUILT_IN:
            letter = _letter(_load(None), template=template, locale=language)
            assert LINK in letter.text
            assert "2030-01-02 03:04 UTC" in letter.text
            assert "$" not in letter.text


@pytest.mark.parametrize(
    ("locale", "subject"),
    [
        ("pt-BR", "Brasil"),
        ("pt_BR", "Brasil"),
        ("PT-br-x", "Brasil"),
        ("pt-PT", "Portugal"),
        ("pt", "Portugal"),
        ("fr", "Ihr Link zum Anmelden"),
        ("", "Ihr Link zum Anmelden"),
        ("../../etc/passwd", "Ihr Link zum Anmelden"),
    ],
)
def test_the_nearest_language_is_taken(tmp_path: Path, locale: str, subject: str) -> None:
    (tmp_path / "magic_link.pt-BR.txt").write_text("Brasil\n\n$link\n")
    (tmp_path / "magic_link.pt.txt").write_text("Portugal\n\n$link\n")
    texts = _load(tmp_path, default_locale="de-CH")
    assert _letter(texts, locale=locale).subject == subject


@given(locale=st.text(max_size=40))
def test_any_locale_gets_words(locale: str) -> None:
    assert LINK in _letter(_load(None), locale=locale).text


def test_words_of_the_operator_take_the_place_of_ours_and_a_page_is_escaped(tmp_path: Path) -> None:
    (tmp_path / "magic_link.en.txt").write_text("Come in, it costs nothing\n\n$link for $$0 until $expires\n")
    (tmp_path / "magic_link.en.html").write_text('<a href="$link">in</a>')
    letter = _letter(_load(tmp_path))
    assert letter.subject == "Come in, it costs nothing"
    assert letter.text == f"{LINK} for $0 until 2030-01-02 03:04 UTC\n"
    assert letter.html == '<a href="https://app.example/in?token=v4.public.x&amp;next=1">in</a>'


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("magic_link.en.txt", "Subject\n\n$link $name\n", "placeholders are $expires and $link"),
        ("magic_link.en.txt", "Subject\n\nno link\n", "without $link"),
        ("magic_link.en.txt", "Subject\n\n$link costs 5 $\n", "a dollar is $$"),
        ("magic_link.en.txt", "Subject $link\n\n$link\n", "first line is the subject"),
        ("magic_link.en.txt", "\n\n$link\n", "first line is the subject"),
        ("magic_link.en.txt", "Sub\x07ject\n\n$link\n", "first line is the subject"),
        ("magic_link.en.txt", "Subject\n\n", "nothing after the subject"),
        ("email_changed.en.txt", "Subject\n\n$link\n", "placeholders are none"),
        ("magic_link.pt.html", "$link", "no .txt beside it"),
        ("magic link.txt", "Subject\n\n$link\n", "must be called"),
        ("magic_link.en.txt~", "Subject\n\n$link\n", "must be called"),
        ("magic_link.en.txt", "Subject\n\n$link\n" + "x" * 70_000, "larger"),
    ],
)
def test_a_template_that_cannot_be_used_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TemplateError) as caught:
        _load(tmp_path)
    assert said in str(caught.value)
    assert name.partition(".")[0] in str(caught.value)


def test_what_is_no_text_and_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="cannot read"):
        _load(tmp_path / "nowhere")
    (tmp_path / "magic_link.en.txt").write_bytes(b"\xff\n\n$link")
    with pytest.raises(TemplateError, match="UTF-8"):
        _load(tmp_path)


def test_a_template_that_is_needed_has_to_be_there_in_the_default_language(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"gift\.en\.txt"):
        _load(None, needed=("gift",))
    with pytest.raises(TemplateError, match=r"magic_link\.fr\.txt"):
        _load(None, needed=("magic_link",), default_locale="fr")
    (tmp_path / "gift.en.txt").write_text("A gift\n\n$link\n")
    assert _letter(_load(tmp_path, needed=("gift",)), template="gift").subject == "A gift"
    with pytest.raises(MailError, match="gift"):
        _letter(_load(None), template="gift")


@pytest.mark.parametrize(
    "url",
    [
        "https://app.example/in?token={token}",
        "https://app.example:8443/in#{token}",
        "http://127.0.0.1:8000/in/{token}",
        "http://localhost/{token}",
        "http://[::1]:80/{token}",
    ],
)
def test_links_lead_over_tls_or_to_this_machine(url: str) -> None:
    assert link_problem(url) is None
    assert link_of(url, "v4.public.a_b-c").replace("v4.public.a_b-c", "{token}") == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://app.example/in",
        "https://app.example/{token}/{token}",
        "https://app.example/{token}{more}",
        "http://app.example/{token}",
        "ftp://app.example/{token}",
        "javascript:alert('{token}')",
        "//app.example/{token}",
        "https:///{token}",
        "https://{token}.app.example/",
        "https://user:word@app.example/{token}",
        "https://app.example/ {token}",
        "https://app.example/\n{token}",
        "https://äpp.example/{token}",
        "https://app.example:0/{token}",
        "https://app.example:x/{token}",
    ],
)
def test_what_is_no_link_is_refused(url: str) -> None:
    assert link_problem(url)


@given(token=st.text(max_size=50))
def test_a_token_cannot_leave_its_place_in_a_link(token: str) -> None:
    try:
        token.encode()
    except UnicodeEncodeError:
        return
    link = link_of("https://app.example/in?token={token}&next=/", token)
    assert link.startswith("https://app.example/in?token=")
    assert link.endswith("&next=/")
    assert link.isascii()
    assert set(link) & set("\r\n <>\"'") == set()
    assert link.count("&") == link.count("?") == 1


@pytest.mark.parametrize(
    ("url", "allow_insecure", "good"),
    [
        ("smtps://mail.example", False, True),
        ("smtps://user%40example.org@mail.example:465", False, True),
        ("smtp+starttls://user@[2001:db8::1]:587", False, True),
        ("smtp://127.0.0.1:25", False, True),
        ("smtp://localhost", False, True),
        ("smtp://mail.example", True, True),
        ("smtp://mail.example", False, False),
        ("smtp://user@127.0.0.1", True, False),
        ("smtps://user:word@mail.example", False, False),
        ("smtps://mail.example/path", False, False),
        ("smtps://mail.example?x=1", False, False),
        ("https://mail.example", False, False),
        ("smtps://", False, False),
        ("smtps://mail.example:x", False, False),
        ("mail.example:25", False, False),
    ],
)
def test_mail_goes_over_tls_or_to_this_machine(url: str, allow_insecure: bool, good: bool) -> None:
    assert (problem_of(url, allow_insecure=allow_insecure) is None) == good


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("no-reply@example.org", "no-reply@example.org"),
        ("Example <no-reply@example.org>", "Example <no-reply@example.org>"),
        ("Bücher <a@bücher.example>", "Bücher <a@xn--bcher-kva.example>"),
        ("", None),
        ("nobody", None),
        ("ü@example.org", None),
        ("Example\r\nBcc: x@example.org <a@example.org>", None),
        ("a@example.org, b@example.org", None),
    ],
)
def test_a_sender_is_one_address_that_every_server_takes(text: str, spelled: str | None) -> None:
    found = sender_of(text)
    assert (None if found is None else str(found)) == spelled
