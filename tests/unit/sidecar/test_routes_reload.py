"""Rules that change while the program runs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bridge_sidecar.config import SidecarConfig, load
from bridge_sidecar.routes import Routes
from bridge_sidecar.routes_reload import RoutesReload
from tests.support.report_log import log_into_report
from trust_core.modes import ValidationMode

SETTINGS = {"BRIDGE_SIDECAR_SECRET": "s", "BRIDGE_SIDECAR_INSTANCE": "i"}


def _rule(name: str, *more: str) -> str:
    return "\n".join(["[[routes]]", f'name = "{name}"', *more, ""])


class Setup:
    """A file of rules that is in effect, and what was logged since."""

    def __init__(self, directory: Path, text: str, logged: Callable[[], str]) -> None:
        self.file = directory / "sidecar.toml"
        self.file.write_text(text)
        self.logged = logged
        running = self.load()
        self.routes = Routes(running.route_table)
        self.reload = RoutesReload(path=self.file, load=self.load, running=running, routes=self.routes)

    def load(self) -> SidecarConfig:
        return load(self.file, SETTINGS)

    def names(self) -> list[str]:
        return [rule.name for rule in self.routes.table.rules]

    async def change(self, text: str) -> None:
        """Put another file in its place, as editors and orchestrators do."""
        fresh = self.file.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.file)
        await self.looked()

    async def looked(self) -> None:
        """Two looks: a change counts when the second finds the same."""
        await self.reload.look()
        await self.reload.look()


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    log_into_report(level="info")
    yield lambda: "".join(capsys.readouterr())
    log_into_report()


async def test_a_changed_file_replaces_the_rules(tmp_path: Path, logged: Callable[[], str]) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    await setup.looked()
    assert setup.names() == ["a"]
    await setup.change(_rule("b") + _rule("c"))
    assert setup.names() == ["b", "c"]
    assert setup.routes.problems == ()


async def test_a_file_that_changed_while_the_program_started_is_read_again(
    tmp_path: Path, logged: Callable[[], str]
) -> None:
    """A mounted file that is swapped between the settings being read and the first look at it."""
    file = tmp_path / "sidecar.toml"
    file.write_text(_rule("a"))
    running = load(file, SETTINGS)
    file.write_text(_rule("b"))
    routes = Routes(running.route_table)
    reload = RoutesReload(path=file, load=lambda: load(file, SETTINGS), running=running, routes=routes)
    await reload.look()
    await reload.look()
    assert [rule.name for rule in routes.table.rules] == ["b"]


async def test_a_file_that_did_not_change_is_not_spoken_of(tmp_path: Path, logged: Callable[[], str]) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    await setup.looked()
    await setup.looked()
    assert logged() == ""


async def test_a_file_edited_in_place_replaces_the_rules(tmp_path: Path, logged: Callable[[], str]) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    setup.file.write_text(_rule("bb"))
    await setup.looked()
    assert setup.names() == ["bb"]


@pytest.mark.parametrize(
    "text",
    [
        "[[routes]]\n",
        "not toml",
        _rule("b", 'mode = "lenient"'),
        "unknown = 1\n",
        "a = " + "[" * 9999,
        f"upstream_ca_file = '{'x' * 5000}'\n",
    ],
)
async def test_a_bad_file_changes_nothing_and_says_so_until_it_is_mended(
    tmp_path: Path, logged: Callable[[], str], text: str
) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    await setup.change(text)
    assert setup.names() == ["a"]
    assert setup.routes.problems
    assert "rules not replaced; those from before hold" in logged()
    await setup.change(_rule("b"))
    assert setup.names() == ["b"]
    assert setup.routes.problems == ()


async def test_a_file_that_is_gone_changes_nothing_and_says_so(tmp_path: Path, logged: Callable[[], str]) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    setup.file.unlink()
    await setup.looked()
    assert setup.names() == ["a"]
    assert "No such file" in setup.routes.problems[0]
    await setup.change(_rule("a"))
    assert setup.routes.problems == ()


async def test_a_pipe_in_place_of_the_file_changes_nothing_and_holds_nothing_up(
    tmp_path: Path, logged: Callable[[], str]
) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    setup.file.unlink()
    os.mkfifo(setup.file)
    await setup.looked()
    assert setup.names() == ["a"]
    assert setup.routes.problems


async def test_what_flowless_was_not_told_of_cannot_be_granted_without_a_restart(
    tmp_path: Path, logged: Callable[[], str]
) -> None:
    setup = Setup(tmp_path, _rule("a", "serve_beyond_lease_seconds = 30"), logged)
    await setup.change(_rule("a", "serve_beyond_lease_seconds = 31"))
    assert setup.routes.table.longest_beyond_lease_ns == 30_000_000_000
    assert "restart the sidecar" in setup.routes.problems[0]
    await setup.change(_rule("a", "serve_beyond_lease_seconds = 29"))
    assert setup.routes.table.longest_beyond_lease_ns == 29_000_000_000
    await setup.change(_rule("b", "serve_beyond_lease_seconds = 30"))
    assert setup.names() == ["b"]


async def test_other_settings_wait_for_a_restart(tmp_path: Path, logged: Callable[[], str]) -> None:
    setup = Setup(tmp_path, "drain_seconds = 1\n" + _rule("a"), logged)
    await setup.change("drain_seconds = 1\n" + _rule("c"))
    assert "they need a restart" not in logged()
    await setup.change("drain_seconds = 2\n" + _rule("b"))
    assert setup.names() == ["b"]
    assert "they need a restart" in logged()


async def test_half_a_file_is_not_taken_over(tmp_path: Path, logged: Callable[[], str]) -> None:
    half, whole = _rule("admin"), _rule("admin", 'roles_all = ["admin"]')
    setup = Setup(tmp_path, whole, logged)
    setup.file.write_text(half)  # somebody is writing it
    await setup.reload.look()
    setup.file.write_text(half + 'roles_all = ["operator"]\n')
    await setup.reload.look()
    assert setup.routes.table.rules[0].roles_all == {"admin"}
    await setup.reload.look()
    assert setup.routes.table.rules[0].roles_all == {"operator"}


async def test_a_file_that_changes_while_it_is_read_is_read_again(
    tmp_path: Path, logged: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    setup.file.write_text(_rule("bb"))
    await setup.reload.look()
    read = setup.reload._read

    def overtaken() -> object:
        monkeypatch.undo()
        found = read()
        setup.file.write_text(_rule("ccc"))
        return found

    monkeypatch.setattr(setup.reload, "_read", overtaken)
    await setup.reload.look()
    assert setup.names() == ["a"]
    await setup.looked()
    assert setup.names() == ["ccc"]


async def test_the_default_mode_changes_with_the_rules_that_fall_back_on_it(
    tmp_path: Path, logged: Callable[[], str]
) -> None:
    setup = Setup(tmp_path, _rule("a"), logged)
    await setup.change('default_mode = "strict"\n' + _rule("a"))
    table = setup.routes.table
    assert table.mode_of(table.rules[0], ValidationMode.STANDARD) is ValidationMode.STRICT
    assert "they need a restart" not in logged()
