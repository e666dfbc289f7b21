"""What `flowless top` makes of looks at the database: rates, warnings, and a screen that names cannot break."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from flowless.cli.printable import printable
from flowless.cli.top_figures import Look, Observer, Rates, View, in_words, rates_between
from flowless.cli.top_json import as_json
from flowless.cli.top_screen import Sort, amount, number, ordered, screen, shortened
from flowless.domain.replicas import Acknowledgement, ReplicaRecord, ReplicaReport, SidecarFigures, WatcherReport

FIGURES = SidecarFigures(
    uptime=timedelta(seconds=100),
    lease_held=True,
    lease_age=timedelta(seconds=0.5),
    cached_sessions=10,
    hits=900,
    misses=100,
    unavailable=0,
    answers_beyond_lease=0,
    denials={5: 4},
)
WATCHER = WatcherReport(
    bridge_id="b",
    instance="pod-1",
    applied_revision=7,
    silent_for=timedelta(seconds=0.4),
    max_staleness=timedelta(seconds=2),
    connected=True,
    figures=FIGURES,
)


def later(figures: SidecarFigures = FIGURES, seconds: float = 10, **more: int) -> SidecarFigures:
    """The same sidecar some seconds on, with more of what is named."""
    denials = {**figures.denials, 5: figures.denials.get(5, 0) + more.pop("revoked", 0)}
    added: dict[str, Any] = {name: getattr(figures, name) + count for name, count in more.items()}
    return replace(figures, uptime=figures.uptime + timedelta(seconds=seconds), denials=denials, **added)


def replica(
    *watchers: WatcherReport, name: str = "host-1", revision: int = 7, ago: float = 1.0, **changed: Any
) -> ReplicaRecord:
    """A replica as it reported."""
    report = ReplicaReport(
        id=name,
        name=name,
        beat=1,
        revision=revision,
        longest_staleness=timedelta(seconds=2),
        watching=changed.pop("watching", len(watchers)),
        watchers=watchers,
    )
    nothing = Acknowledgement(revision=0, applied=0, expired=0)
    values = {"doubted": False, "reported_ago": timedelta(seconds=ago), **changed}
    return ReplicaRecord(report=report, acknowledged=nothing, **values)


def look(
    *replicas: ReplicaRecord, at: float = 0.0, revision: int = 7, names: Mapping[str, str] | None = None
) -> Look:
    """A look so many seconds after the first."""
    return Look(
        at=datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=at),
        elapsed=timedelta(seconds=1_000 + at),
        revision=revision,
        replicas=replicas,
        bridge_names={"b": "shop"} if names is None else names,
    )


def drawn(view: View, *, width: int = 80, height: int | None = None) -> list[str]:
    """The lines that a terminal gets which understands no colours."""
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False)
    console.print(screen(view, ordered(view.sidecars, Sort.TROUBLE), width=width, height=height, note="q quits"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


# --- rates ------------------------------------------------------------------------------------------------------


def test_rates_are_what_was_added_in_the_sidecars_own_time() -> None:
    rates = rates_between(FIGURES, later(seconds=5, hits=80, misses=20, unavailable=3, revoked=6))
    assert rates == Rates(seconds=5, hits=80, misses=20, denials=6, unavailable=3, beyond_lease=0)
    assert (rates.answers, rates.hit_ratio) == (100, 0.8)


@pytest.mark.parametrize(
    "restarted",
    [
        replace(FIGURES, uptime=timedelta(seconds=3), hits=30, misses=10, denials={5: 1}),
        replace(FIGURES, uptime=timedelta(seconds=300), hits=30, misses=10, denials={5: 1}),
        replace(FIGURES, uptime=timedelta(seconds=99), hits=1_000, misses=110, denials={5: 10}),
    ],
    ids=["younger than before", "older than before, with less counted", "younger, with more counted"],
)
def test_a_sidecar_that_started_anew_is_counted_from_its_start(restarted: SidecarFigures) -> None:
    rates = rates_between(FIGURES, restarted)
    assert rates is not None
    assert (rates.hits, rates.misses, rates.denials) == (restarted.hits, restarted.misses, restarted.denials[5])
    assert rates.seconds == restarted.uptime.total_seconds()


def test_there_is_no_rate_of_no_time_and_no_ratio_of_no_questions() -> None:
    assert rates_between(FIGURES, replace(FIGURES, hits=901)) is None
    rates = rates_between(FIGURES, later())
    assert rates is not None
    assert rates.hit_ratio is None


def test_rates_stay_until_the_sidecar_has_told_more() -> None:
    observer, more = Observer(), replace(WATCHER, figures=later(hits=50))
    (first,) = observer.view(look(replica(WATCHER))).sidecars
    (second,) = observer.view(look(replica(more), at=2)).sidecars
    (third,) = observer.view(look(replica(more), at=4)).sidecars
    assert first.rates is None
    assert second.rates is not None
    assert third.rates == second.rates


def test_a_sidecar_that_moves_to_another_replica_is_one_sidecar_and_keeps_its_rates() -> None:
    observer = Observer()
    observer.view(look(replica(WATCHER), replica(name="host-2")))
    left, came = replace(WATCHER, connected=False), replace(WATCHER, figures=later(hits=50))
    for old in (replica(left), replica(WATCHER, ago=30.0), replica(WATCHER, doubted=True)):
        (row,) = observer.view(look(old, replica(came, name="host-2"), at=2)).sidecars
        assert (row.replica, row.lease) == ("host-2", "held")
        assert row.rates is not None
        assert row.rates.hits == 50


def test_two_sidecars_of_one_name_are_two_rows_without_rates() -> None:
    observer, other = Observer(), replace(WATCHER, figures=later(seconds=-50, hits=-500))
    observer.view(look(replica(WATCHER, other)))
    view = observer.view(look(replica(replace(WATCHER, figures=later(hits=1)), other), at=5))
    assert [row.rates for row in view.sidecars] == [None, None]


# --- warnings ---------------------------------------------------------------------------------------------------


def test_where_all_is_well_there_is_no_warning() -> None:
    observer = Observer()
    for at in (0.0, 5.0, 10.0):
        end = 7 + round(at)
        watcher = replace(WATCHER, applied_revision=end - 1, figures=later(seconds=at, hits=round(at)))
        assert observer.view(look(replica(watcher, revision=end), at=at, revision=end + 3)).warnings == []


def test_no_replica_at_all_is_said() -> None:
    (warning,) = Observer().view(look()).warnings
    assert "no replica of Flowless has reported" in warning


@pytest.mark.parametrize(
    "changed", [{"ago": 12.0}, {"doubted": True}, {"doubted": True, "reported_ago": None}], ids=str
)
def test_a_replica_that_is_not_heard_from_makes_its_sidecars_unknown(changed: dict[str, Any]) -> None:
    view = Observer().view(look(replica(WATCHER, **changed)))
    assert [warning.partition(" for ")[0].partition(":")[0] for warning in view.warnings] == [
        "replica host-1 not heard from"
    ]
    assert [row.lease for row in view.sidecars] == ["?"]


def test_a_replica_that_reports_but_does_not_read_the_log_is_said() -> None:
    observer = Observer()
    observer.view(look(replica(), revision=20))
    fresh = observer.view(look(replica(revision=7, ago=4.0), at=5, revision=20))
    assert fresh.warnings == [], "what it reported was before, or just after, the end was seen there"
    stuck = observer.view(look(replica(revision=7, ago=1.0), at=6, revision=25))
    assert stuck.warnings == ["replica host-1 does not read the log: 18 behind"]


@pytest.mark.parametrize(
    "watcher",
    [
        replace(WATCHER, silent_for=timedelta(seconds=2)),
        replace(WATCHER, figures=replace(FIGURES, lease_held=False, lease_age=None)),
    ],
    ids=["silent for as long as a lease lasts", "it says so"],
)
def test_a_lease_that_is_not_held_is_said(watcher: WatcherReport) -> None:
    view = Observer().view(look(replica(watcher)))
    assert [row.lease for row in view.sidecars] == ["none"]
    assert view.warnings == ["sidecar shop/pod-1 holds no lease: each request asks Flowless"]


def test_one_that_has_only_just_come_or_keeps_no_cache_is_no_reason_to_worry() -> None:
    came = replace(WATCHER, silent_for=None, figures=None)
    cacheless = replace(WATCHER, instance="cron", max_staleness=timedelta(0), figures=None)
    view = Observer().view(look(replica(came, cacheless)))
    assert view.warnings == []
    assert [row.lease for row in view.sidecars] == ["none", "-"]


def test_a_sidecar_that_goes_is_shown_for_a_minute() -> None:
    observer = Observer()
    observer.view(look(replica(WATCHER)))
    view = observer.view(look(replica(), at=10))
    assert [row.lease for row in view.sidecars] == ["gone"]
    assert view.warnings == ["sidecar shop/pod-1 is gone, seen 10 s ago: stopped or cut off"]
    assert observer.view(look(replica(), at=61)).sidecars == []
    assert observer.view(look(replica(), at=62)).warnings == []


def test_what_has_gone_is_not_remembered_without_end() -> None:
    observer = Observer()
    for number_ in range(50):
        crowd = [replace(WATCHER, instance=f"pod-{number_}-{n}") for n in range(100)]
        observer.view(look(replica(*crowd), at=number_ / 10))
    assert len(observer.view(look(replica(), at=6)).sidecars) == 1_000


def test_a_sidecar_that_applies_nothing_while_the_log_goes_on_is_said() -> None:
    observer = Observer()
    observer.view(look(replica(WATCHER, revision=9), revision=9))
    soon = observer.view(look(replica(WATCHER, revision=12), at=1, revision=12))
    assert soon.warnings == [], "two reports in quick succession prove nothing"
    view = observer.view(look(replica(WATCHER, revision=14), at=5, revision=14))
    assert view.warnings == ["sidecar shop/pod-1 is stuck 7 revisions behind"]


def test_answers_that_failed_closed_or_went_beyond_a_lease_are_said() -> None:
    observer = Observer()
    observer.view(look(replica(WATCHER)))
    failing = replace(WATCHER, figures=later(misses=9, unavailable=4, answers_beyond_lease=5))
    assert observer.view(look(replica(failing), at=10)).warnings == [
        "sidecar shop/pod-1 answered UNAVAILABLE 4 times in 10 s",
        "sidecar shop/pod-1 answered beyond its lease 5 times in 10 s",
    ]


def test_sidecars_that_are_not_listed_are_said() -> None:
    view = Observer().view(look(replica(WATCHER, watching=250)))
    assert view.warnings == ["replica host-1 lists 1 of 250 sidecars: those furthest behind"]


# --- the screen -------------------------------------------------------------------------------------------------


def _crowd(count: int) -> View:
    observer = Observer()
    for at in (0.0, 5.0):
        crowd = [
            replace(
                WATCHER, instance=f"deployment-with-a-long-name-{n:03}", figures=later(seconds=at, hits=round(at) * n)
            )
            for n in range(count)
        ]
        replicas = [replica(*crowd[start::20], name=f"flowless-7d9c5b6f4-{start:05}-1") for start in range(20)]
        view = observer.view(look(*replicas, at=at))
    return view


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
@pytest.mark.parametrize("height", [5, 24, 50])
def test_a_crowd_fits_every_terminal_and_who_is_left_out_is_counted(width: int, height: int) -> None:
    lines = drawn(_crowd(500), width=width, height=height)
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    if height >= 24:
        assert len(lines) <= height
        shown = sum("long-name" in line or "name-" in line for line in lines)
        assert f"and {500 - shown} more sidecars"[: width - 1] in "\n".join(lines)
        assert "and 12 more replicas" in "\n".join(lines)


_REST = ("DENY/S", "UNAV/S", "CACHED")


def test_eighty_columns_show_what_matters() -> None:
    head = next(line for line in drawn(_crowd(3)) if line.startswith("SIDECAR"))
    assert head.split() == [*("SIDECAR", "ON", "LAG", "LEASE", "HIT", "%", "EVER", "ANS/S"), *_REST]


def test_the_end_of_a_name_that_is_cut_still_tells_it_apart() -> None:
    assert shortened("shop/web-7d9c5b6f4-abcde-1", 16) == "shop/…f4-abcde-1"
    assert cell_len(shortened("表" * 40, 15)) <= 15
    assert shortened("short", 16) == "short"


def test_a_sidecar_without_figures_is_shown_without_numbers_and_counted() -> None:
    lines = drawn(Observer().view(look(replica(WATCHER, replace(WATCHER, instance="old", figures=None)))))
    (old,) = [line.split() for line in lines if line.startswith("shop/old")]
    assert old == ["shop/old", "1", "0", "held", "-", "-", "-", "-", "-", "-", "-"]
    assert lines[-1].rstrip() == "denials since start (1 sidecar without figures): REVOKED 4"


def test_a_reason_of_a_newer_sidecar_is_shown_by_its_number() -> None:
    view = Observer().view(look(replica(replace(WATCHER, figures=replace(FIGURES, denials={77: 5, 0: 1})))))
    assert drawn(view)[-1].rstrip() == "denials since start: 77 5, OTHER 1"
    assert as_json(view, list(view.sidecars))["sidecars"][0]["figures"]["denials"] == {"OTHER": 1, "77": 5}


ATTACKS = [
    "\x1b[2J\x1b[H all is well",
    "\x1b]0;owned\x07",
    "\x9b2J",
    "pod\r\nreplica host-9 not heard from",
    "pod\x08\x08\x08\x08evil",
    "\u202eniamod",
    "\u2066pod\u2069",
    "pod\u2028line",
    "\U000e0041\U000e0042",
    "[bold red]pod[/] :skull:",
    "\ud800",
]


@pytest.mark.parametrize("name", ATTACKS, ids=ascii)
def test_a_name_cannot_steer_the_terminal(name: str) -> None:
    """Names of instances come from sidecars, all names from a database that somebody may have changed."""
    observer = Observer()
    watcher = replace(WATCHER, instance=name, figures=replace(FIGURES, lease_held=False))
    view = observer.view(look(replica(watcher, name=name), names={"b": name}))
    gone = observer.view(look(replica(name=name, doubted=True), at=5, names={"b": name}))
    for shown in (view, gone):
        lines = drawn(shown, width=200)
        assert len(lines) == len(drawn(Observer().view(look(replica(WATCHER))))) + len(shown.warnings)
        text = "".join(lines)
        assert text.isprintable()
        assert ("[bold red]pod[/] :skull:" in text) == name.startswith("[bold"), "no markup, no emoji"
        assert json.dumps(as_json(shown, list(shown.sidecars))).isprintable()


def test_names_in_many_scripts_stay_as_they_are() -> None:
    for name in ("pod-1 ✓", "سرور\u200cیک", "ポッド", "é", "👩\u200d💻"):
        assert printable(name) == name


def _names(view: View, sort: Sort) -> Sequence[str]:
    return [row.watcher.instance for row in ordered(view.sidecars, sort)]


def test_sidecars_are_sorted_as_asked() -> None:
    def sidecar(name: str, **changed: Any) -> WatcherReport:
        return replace(WATCHER, instance=name, **changed)

    watchers = (
        sidecar("a", figures=later(seconds=0, hits=500)),
        sidecar("b", applied_revision=3),
        sidecar("c", figures=later(seconds=0, misses=400, unavailable=9)),
        sidecar("d", figures=later(seconds=0, revoked=90)),
        sidecar("e", silent_for=timedelta(seconds=9)),
        sidecar("f", figures=None),
    )
    view = Observer().view(look(replica(*watchers)))
    assert _names(view, Sort.TROUBLE) == ["e", "b", "a", "c", "d", "f"]
    assert _names(view, Sort.NAME) == ["a", "b", "c", "d", "e", "f"]
    assert _names(view, Sort.LAG)[0] == "b"
    assert _names(view, Sort.ANSWERS) == ["a", "c", "b", "d", "e", "f"]
    assert _names(view, Sort.HITS) == ["c", "b", "d", "e", "a", "f"]
    assert _names(view, Sort.DENIALS)[0] == "d"
    assert _names(view, Sort.UNAVAILABLE)[0] == "c"


def test_amounts_and_times_have_room_in_their_columns() -> None:
    assert [number(n) for n in (0, 0.04, 1.25, 99.94, 99.96, 12_345.6)] == ["0", "0.0", "1.2", "99.9", "100", "12346"]
    assert [amount(n) for n in (99_999, 100_000, 10**7, 2**63 - 1)] == ["99999", "100k", "10M", "9223P"]
    assert all(len(amount(10**n)) <= 6 for n in range(30))
    assert [in_words(timedelta(seconds=s)) for s in (0, 59.6, 61, 3_600, 90_061)] == [
        *("0 s", "1 m 0 s", "1 m 1 s", "1 h 0 m", "1 d 1 h")
    ]
