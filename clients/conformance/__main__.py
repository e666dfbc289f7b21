"""Play the conformance cases with all clients, and with apps that have their middlewares: `make conformance`.

Exit codes: 0 all is well, 1 a case failed, 2 the command line or a file is wrong, 3 a language was not run
(`--require-all`).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from google.protobuf.duration_pb2 import Duration

from clients.conformance.app import AppError, serving
from clients.conformance.case_file import Case, CaseError, read_cases
from clients.conformance.driver import Driver, DriverError
from clients.conformance.driver_list import APPS, DRIVERS, DriverEntry, DriverListError, read_drivers
from clients.conformance.matrix import Column, as_json, details, matrix
from clients.conformance.methods import full_name
from clients.conformance.play import play
from clients.conformance.play_app import AppPlayer
from clients.conformance.scripted_sidecar import ScriptError
from clients.conformance.world import World, WorldError, running
from conformance.v1.conformance_pb2 import Describe, DriverRequest, Rpc
from tools.processes import ROOT, exit_on_sigterm, temporary_directory
from trustlayer.v1.validator_pb2 import ValidateRequest

Kind = Literal["driver", "app"]
_START_SECONDS = 60.0
_BUILD_SECONDS = 3_600.0
_DEATHS = 5
"""A driver that ended so often is given no more cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Player:
    """What plays cases: a client's driver, or an app."""

    kind: Kind
    entry: DriverEntry
    cases: tuple[Case, ...]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m clients.conformance",
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="A,B", help="these drivers and apps only")
    parser.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="TEXT",
        help="cases with this text in `group: name`; repeatable",
    )
    parser.add_argument("--list", action="store_true", help="list cases and drivers, and run nothing")
    parser.add_argument("--no-build", action="store_true", help="run the drivers as they are built already")
    parser.add_argument("--require-all", action="store_true", help="fail if a language is not run (exit code 3)")
    parser.add_argument("--verbose", action="store_true", help="a row for each case instead of each group")
    parser.add_argument("--json", action="store_true", help="print the results for programs")
    parser.add_argument("--drivers", type=Path, default=DRIVERS, metavar="FILE", help="another list of drivers")
    parser.add_argument("--apps", type=Path, default=APPS, metavar="FILE", help="another list of apps")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Play the cases; return the exit code."""
    arguments = parse(argv)
    exit_on_sigterm()
    try:
        cases, players = _chosen(arguments)
    except (CaseError, DriverListError) as error:
        print(f"conformance: {error}", file=sys.stderr)
        return 2
    if arguments.list:
        listed = [f"{player.kind}: {player.entry.name}" for player in players]
        print("\n".join([*(f"{case.group}: {case.name}" for case in cases), *listed]))
        return 0
    # Two of them may come of one target.
    entries = [player.entry for player in players]
    targets = dict.fromkeys(entry.build for entry in entries if not entry.missing and not arguments.no_build)
    failed = {target for target in targets if not _built(target)}
    columns = [_prepared(entry, failed) for entry in entries]
    wrong = ""
    with temporary_directory() as directory, running(directory) as world:
        for player, column in zip(players, columns, strict=True):
            if not column.not_run:
                log = directory / f"{player.entry.name}.log"
                wrong = wrong or _play_all(player, column, world, log)
    if wrong:
        print(f"conformance: this case cannot be played: {wrong}", file=sys.stderr)
    _print(players, columns, arguments)
    if wrong:
        return 2
    return exit_code(columns, require_all=arguments.require_all)


def _print(players: Sequence[_Player], columns: Sequence[Column], arguments: argparse.Namespace) -> None:
    """Print a matrix for the clients and one for the apps, or all of it for programs."""
    results: dict[str, object] = {}
    for kind in dict.fromkeys(player.kind for player in players):
        mine = [column for player, column in zip(players, columns, strict=True) if player.kind == kind]
        cases = next(player.cases for player in players if player.kind == kind)
        results[f"{kind}s"] = as_json(cases, mine)
        if not arguments.json:
            print("\n".join([matrix(cases, mine, by_case=arguments.verbose), "", *details(mine)]))
    if arguments.json:
        print(json.dumps(results, indent=2))


def exit_code(columns: Sequence[Column], *, require_all: bool) -> int:
    """Say how the run ends; a run that ran nothing has shown nothing, and is a mistake."""
    if any(column.failed for column in columns):
        return 1
    if all(column.not_run for column in columns):
        return 3 if require_all and columns else 2
    return 3 if require_all and any(column.not_run for column in columns) else 0


def _chosen(arguments: argparse.Namespace) -> tuple[tuple[Case, ...], tuple[_Player, ...]]:
    texts = arguments.case or [""]
    cases = tuple(case for case in read_cases() if any(text in f"{case.group}: {case.name}" for text in texts))
    if not cases:
        raise CaseError(f"no case holds {' or '.join(map(repr, texts))}")
    players: list[_Player] = []
    lists: tuple[tuple[Kind, Path], ...] = (("driver", arguments.drivers), ("app", arguments.apps))
    for kind, file in lists:
        mine = tuple(case for case in cases if case.asks_app == (kind == "app"))
        players += [_Player(kind=kind, entry=entry, cases=mine) for entry in read_drivers(file)]
    names = [name for name in arguments.only.split(",") if name]
    there = [player.entry.name for player in players]
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise DriverListError(f"no such driver or app: {', '.join(unknown)}; there are {', '.join(there)}")
    chosen = tuple(player for player in players if player.cases and (not names or player.entry.name in names))
    if not chosen:
        raise CaseError("none of these plays any of these cases")
    return cases, chosen


def _built(target: str) -> bool:
    """Build by a make target; whether that went well."""
    print(f"building {target}", file=sys.stderr)
    built = subprocess.run(["make", target], cwd=ROOT, stdout=sys.stderr, timeout=_BUILD_SECONDS, check=False)
    return built.returncode == 0


def _prepared(driver: DriverEntry, failed: set[str]) -> Column:
    """Begin a driver's column; `failed` are the make targets that could not be built."""
    column = Column(name=driver.name)
    if driver.missing:
        column.not_run = f"this machine has no {', '.join(driver.missing)}"
    elif driver.build in failed:
        column.not_run, column.build_failed = f"make {driver.build} failed", True
    return column


def _play_all(player: _Player, column: Column, world: World, log: Path) -> str:
    """Play all its cases with one driver or app; say which case is wrong itself, if one is."""
    began = time.monotonic()
    playing = _play_driver if player.kind == "driver" else _play_app
    case: Case | None = None
    try:
        for case, problem in playing(player, column, world, log):
            column.problems[case.name] = problem
            print("F" if problem else ".", end="", file=sys.stderr, flush=True)
    except (DriverError, AppError) as error:
        column.problems["(the start)"] = str(error)
    except (WorldError, ScriptError, ValueError) as error:
        return f"{'the case after ' + repr(case.name) if case else 'the first case'}: {error}"
    finally:
        column.seconds = time.monotonic() - began
        print(file=sys.stderr)
    return ""


def _play_driver(player: _Player, column: Column, world: World, log: Path) -> Iterator[tuple[Case, str]]:
    deaths = 0
    with Driver(command=player.entry.run, log=log) as driver:
        column.runtime = _describe(driver)
        _warm_up(driver, world)
        print(f"{player.entry.name}: {column.runtime}", file=sys.stderr)
        for case in player.cases:
            if deaths >= _DEATHS:
                yield case, "not played: the driver ended too often"
                continue
            yield case, play(case, driver, world)
            deaths += not driver.runs
        code = driver.stop()
        if code not in (0, None):
            column.problems["(the end)"] = f"the driver ended with exit code {code} when its input ended"


def _play_app(player: _Player, column: Column, world: World, log: Path) -> Iterator[tuple[Case, str]]:
    print(player.entry.name, file=sys.stderr)
    with serving(player.entry.run, sidecar=world.socket("sidecar"), log=log) as app:
        playing = AppPlayer(app, world)
        playing.warm_up()
        for case in player.cases:
            yield case, playing.play(case)
        if problem := playing.logged_secrets():
            column.problems["(the end)"] = problem


def _describe(driver: Driver) -> str:
    asked = driver.ask(DriverRequest(describe=Describe()), timeout=_START_SECONDS)
    said = asked.description
    if not said.language:
        raise DriverError("the driver does not say what it is")
    return f"{said.language} {said.client_version} on {said.runtime}"


def _warm_up(driver: Driver, world: World) -> None:
    """Make a first call of each kind: what a runtime loads at its first is no matter of deadlines. Judges nothing."""
    socket, timeout = str(world.socket("sidecar")), Duration(seconds=int(_START_SECONDS))
    keys = Rpc(method=full_name("TrustTokenService/GetPublicKeys"))
    for request in (
        DriverRequest(socket=socket, timeout=timeout, validate=ValidateRequest()),
        DriverRequest(socket=socket, timeout=timeout, rpc=keys),
    ):
        driver.ask(request, timeout=_START_SECONDS)


if __name__ == "__main__":
    raise SystemExit(main())
