"""No language is left out: whoever has a directory in clients/ is held to the cases, and measured."""

from collections.abc import Iterable

import pytest

from bench.language_programs import programs
from clients.conformance.driver_list import APPS, read_drivers
from tools.processes import ROOT

LANGUAGES = {file.parent.name for file in (ROOT / "clients").glob("*/client.mk")}


def languages_of(names: Iterable[str]) -> set[str]:
    """Take the languages from names of columns: `python` of `python-asyncio`."""
    return {name.partition("-")[0] for name in names}


def test_there_are_languages() -> None:
    assert "python" in LANGUAGES


def test_every_language_has_a_conformance_driver_and_no_other_has() -> None:
    assert languages_of(driver.name for driver in read_drivers()) == LANGUAGES


def test_every_language_has_an_app_with_its_middleware_and_no_other_has() -> None:
    assert languages_of(app.name for app in read_drivers(APPS)) == LANGUAGES


def test_every_language_has_a_bench_program_and_no_other_has() -> None:
    assert languages_of(program.name for program in programs()) == LANGUAGES


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_what_is_listed_is_built_by_a_target_of_its_language(language: str) -> None:
    makefile = (ROOT / "clients" / language / "client.mk").read_text(encoding="utf-8")
    listed = [(entry.name, entry.build) for entry in (*read_drivers(), *read_drivers(APPS))]
    listed += [(program.name, program.build) for program in programs()]
    targets = {build for name, build in listed if languages_of([name]) == {language}}
    assert targets == {f"client-{language}"}
    assert f"\nclient-{language}:" in makefile


def test_every_language_is_in_the_table_of_the_clients() -> None:
    table = (ROOT / "clients" / "README.md").read_text(encoding="utf-8")
    assert {language for language in LANGUAGES if f"[`{language}`]({language})" not in table} == set()
