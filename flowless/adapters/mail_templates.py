"""Words of mails: built in for two languages, and from a directory of the operator's.

A directory may hold `<template>.<language>.txt`, whose first line is the subject, and beside it
`<template>.<language>.html`. Placeholders are `$link` and `$expires`, nothing else; `$$` is a dollar. All is read and
checked at the start, so that no mail fails over its words.
"""

import html
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Final, Self

from flowless.adapters.mail_words import BUILT_IN_WORDS
from flowless.domain.mail import Letter, MailError
from flowless.domain.trust_tokens import EMAIL_CHANGE_NOTICE, EMAIL_CHANGED

WITHOUT_LINK: Final = frozenset({EMAIL_CHANGE_NOTICE, EMAIL_CHANGED, "test"})
"""Templates that carry no token, and so neither link nor expiry."""
LANGUAGE: Final = re.compile(r"[a-z]{1,8}(-[a-z0-9]{1,8}){0,3}", re.ASCII)
_FILE: Final = re.compile(r"([a-z][a-z0-9_]{2,63})\.([A-Za-z0-9-]{1,35})\.(txt|html)", re.ASCII)
_MOST_FILES: Final = 1_000
_MOST_BYTES: Final = 65_536
_SUBJECT_CHARS: Final = 200

Key = tuple[str, str]


class TemplateError(Exception):
    """A template cannot be used; the text says which and why."""


@dataclass(frozen=True, slots=True)
class _Words:
    subject: str
    text: Template
    html: Template | None = None


class MailTemplates:
    """See `flowless.ports.mail.MailTexts`. Nothing changes after the start."""

    def __init__(self, *, words: Mapping[Key, _Words], default_locale: str) -> None:
        self._words = words
        self._default_locale = default_locale

    @classmethod
    def load(cls, directory: Path | None, *, needed: Iterable[str], default_locale: str) -> Self:
        """Read what there is. Raises TemplateError, also when a `needed` template has no words in the default."""
        texts = {key: text.lstrip("\n") for key, text in BUILT_IN_WORDS.items()}
        pages: dict[Key, str] = {}
        for path in _files(directory):
            name, language, kind = path.name.split(".")
            (texts if kind == "txt" else pages)[name, language.lower()] = _read(path)
        words = {key: _words(key, text, pages.pop(key, None)) for key, text in texts.items()}
        if pages:
            raise TemplateError(f"{'.'.join(next(iter(pages)))}.html has no .txt beside it, which every mail needs")
        made = cls(words=words, default_locale=default_locale.lower())
        for template in needed:
            if made.find(template, "") is None:
                raise TemplateError(f"there are no words for {template}: write {template}.{default_locale}.txt")
        return made

    def find(self, template: str, locale: str) -> _Words | None:
        """Find the words in the nearest language: `pt-BR`, else `pt`, else the default's, in the same order."""
        for wanted in (locale.lower().replace("_", "-"), self._default_locale):
            subtags = wanted.split("-")
            for count in range(len(subtags), 0, -1):
                found = self._words.get((template, "-".join(subtags[:count])))
                if found is not None:
                    return found
        return None

    def letter(self, template: str, *, locale: str, link: str, expires_at: datetime | None) -> Letter:
        """See the port."""
        words = self.find(template, locale)
        if words is None:
            raise MailError(f"there are no words for {template}")
        expires = "" if expires_at is None else f"{expires_at:%Y-%m-%d %H:%M} UTC"
        values = {"link": link, "expires": expires}
        page = ""
        if words.html is not None:
            page = words.html.substitute({name: html.escape(value) for name, value in values.items()})
        return Letter(subject=words.subject, text=words.text.substitute(values), html=page)


def _files(directory: Path | None) -> list[Path]:
    """List a directory's templates. A file that is none is a mistake in its name, and said."""
    if directory is None:
        return []
    try:
        found = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise TemplateError(f"cannot read {directory}: {error.strerror}") from None
    for path in found:
        name = _FILE.fullmatch(path.name)
        if name is None or LANGUAGE.fullmatch(name[2].lower()) is None:
            raise TemplateError(f"{path.name}: must be called TEMPLATE.LANGUAGE.txt or TEMPLATE.LANGUAGE.html")
    if len(found) > _MOST_FILES:
        raise TemplateError(f"more than {_MOST_FILES} files")
    return found


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TemplateError(f"{path.name}: larger than {_MOST_BYTES} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise TemplateError(f"{path.name}: cannot be read as UTF-8") from None


def _words(key: Key, text: str, page: str | None) -> _Words:
    subject, _, body = text.partition("\n")
    subject = subject.strip()
    where = ".".join(key)
    if not subject or len(subject) > _SUBJECT_CHARS or not subject.isprintable() or "$" in subject:
        raise TemplateError(f"{where}.txt: its first line is the subject, up to {_SUBJECT_CHARS} characters, no '$'")
    if not body.strip():
        raise TemplateError(f"{where}.txt: there is nothing after the subject")
    return _Words(
        subject,
        _template(key[0], f"{where}.txt", body.lstrip("\n")),
        None if page is None else _template(key[0], f"{where}.html", page),
    )


def _template(template: str, where: str, text: str) -> Template:
    made = Template(text)
    used = set(made.get_identifiers())
    allowed: set[str] = set() if template in WITHOUT_LINK else {"link", "expires"}
    if not made.is_valid() or not used <= allowed:
        names = " and ".join(f"${name}" for name in sorted(allowed)) or "none"
        raise TemplateError(f"{where}: placeholders are {names}, and a dollar is $$")
    if allowed and "link" not in used:
        raise TemplateError(f"{where}: without $link it carries nothing")
    return made
