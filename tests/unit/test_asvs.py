"""The page about OWASP ASVS 5.0.0 leaves out no requirement, and what it points to is there."""

import ast
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.repository import ROOT, files

PAGE: Final = (ROOT / "docs" / "security" / "asvs.md").read_text()
STATUSES: Final = {"met", "partly", "not met", "the app's", "not applicable"}
REQUIREMENTS: Final = {
    "6": (3, 12, 8, 6, 8, 4, 2, 4),
    "7": (3, 4, 2, 5, 3, 2),
    "9": (3, 4),
    "11": (4, 5, 5, 4, 2, 2, 2),
    "13": (4, 6, 4, 7),
    "16": (1, 5, 4, 3, 4),
}
"""Chapter -> how many requirements each of its sections has in ASVS 5.0.0."""
LEVELS: Final = {
    "6": ("122", "111111112222", "11223333", "112233", "22222333", "2223", "33", "2222"),
    "7": ("222", "1111", "22", "11222", "223", "22"),
    "9": ("111", "1222"),
}
"""Chapter -> the level of each requirement, section by section."""
WHOLE: Final = ("6", "7", "9")
"""Chapters that are ours as a whole."""

_REFERENCE: Final = re.compile(r"`([\w./-]+\.(?:py|md|proto|toml|txt))(?:::(\w+))?`")
_LIBRARIES: Final = frozenset(
    ("argon2", "bcrypt", "cryptography", "Cryptodome", "hashlib", "hmac", "nacl", "pyseto", "secrets", "ssl")
)
_NAMES: Final = frozenset({"urandom", "ssl_server_credentials", "ssl_channel_credentials"})
"""Ways to cryptography and to the kernel's randomness by libraries that do other things too."""


class Row(NamedTuple):
    """One requirement as the page tells it."""

    id: str
    level: str
    asks: str
    status: str
    how: str


def _rows() -> list[Row]:
    lines = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \|(.*)\|$", PAGE)
    return [Row(number, *(cell.strip() for cell in rest.split("|"))) for number, rest in lines]


def _not_ours() -> list[str]:
    return re.findall(r"\d+\.\d+\.\d+", " ".join(re.findall(r"(?m)^Not ours: (.*)$", PAGE)))


def _ids(chapter: str) -> list[str]:
    return [
        f"{chapter}.{section}.{number}"
        for section, amount in enumerate(REQUIREMENTS[chapter], 1)
        for number in range(1, amount + 1)
    ]


def _section(title: str) -> str:
    (found,) = re.findall(rf"(?ms)^### {title}\n(.*?)^##", PAGE)
    return str(found)


def test_the_page_has_exactly_the_standards_requirements() -> None:
    told = [row.id for row in _rows()]
    assert [number for number, times in Counter(told).items() if times > 1] == []
    for chapter in WHOLE:
        assert [number for number in told if number.startswith(f"{chapter}.")] == _ids(chapter)
    assert sorted([*told, *_not_ours()]) == sorted(chain.from_iterable(map(_ids, REQUIREMENTS)))


def test_every_requirement_has_the_standards_level() -> None:
    levels = {row.id: row.level for row in _rows()}
    assert set(levels.values()) <= {"1", "2", "3"}
    for chapter, sections in LEVELS.items():
        assert "".join(levels[number] for number in _ids(chapter)) == "".join(sections)


def test_every_row_says_what_is_asked_and_has_a_known_status() -> None:
    assert [row.id for row in _rows() if not row.asks or row.status not in STATUSES] == []
    explained = set(re.findall(r"(?m)^\| ([a-z' ]+) \| [^|]+ \|$", PAGE)) - {"status"}
    assert explained == STATUSES


def test_what_is_met_is_shown_and_what_is_not_met_is_explained() -> None:
    assert [row.id for row in _rows() if row.status == "met" and not _REFERENCE.search(row.how)] == []
    assert [row.id for row in _rows() if row.status in ("partly", "not met", "not applicable") and not row.how] == []


def test_every_file_and_every_test_that_is_named_is_there() -> None:
    references = _REFERENCE.findall(PAGE)
    assert references
    assert [path for path, _ in references if not (ROOT / path).is_file()] == []
    missing = [
        f"{path}::{test}"
        for path, test in references
        if test and not re.search(rf"(?m)^(?:async )?def {test}\(", (ROOT / path).read_text())
    ]
    assert missing == []


def test_the_inventory_names_every_module_that_touches_cryptography() -> None:
    programs = {"flowless", "bridge_sidecar", "trust_core"}
    modules = [path.relative_to(ROOT) for path in files() if path.suffix == ".py"]
    found = {str(each) for each in modules if each.parts[0] in programs and _touches_cryptography(ROOT / each)}
    assert {path for path, _ in _REFERENCE.findall(_section("Cryptography"))} == found


def _touches_cryptography(module: Path) -> bool:
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
        else:
            names = set()
        if names & _LIBRARIES or (isinstance(node, ast.Attribute) and node.attr in _NAMES):
            return True
    return False
