"""A view as JSON, for programs. Ratios and times are null where they are not known."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from flowless.cli.common import plain
from flowless.cli.top_figures import Rates, SidecarRow, View, silent
from flowless.domain.replicas import ReplicaRecord, SidecarFigures
from trust_core.modes import DenialReason

REASONS: Final[Mapping[int, str]] = {int(reason): reason.name for reason in DenialReason} | {0: "OTHER"}


def as_json(view: View, rows: list[SidecarRow]) -> dict[str, Any]:
    """Object of a view with these of its sidecars."""
    look = view.look
    return {
        "time": plain(look.at),
        "revision": look.revision,
        "warnings": list(view.warnings),
        "replicas": [_replica(record, look.revision) for record in look.replicas],
        "sidecars": [_sidecar(row) for row in rows],
        "sidecars_not_shown": len(view.sidecars) - len(rows),
    }


def _replica(record: ReplicaRecord, end: int) -> dict[str, Any]:
    report = record.report
    return {
        "id": report.id,
        "name": report.name,
        "revision": report.revision,
        "lag": max(0, end - report.revision),
        "silent": silent(record),
        "reported_ago_seconds": _seconds(record.reported_ago),
        "watchers": report.watching,
        "watchers_listed": len(report.watchers),
    }


def _sidecar(row: SidecarRow) -> dict[str, Any]:
    watcher = row.watcher
    return {
        "bridge_id": watcher.bridge_id,
        "bridge": row.bridge,
        "instance": watcher.instance,
        "replica": row.replica,
        "lease": row.lease,
        "connected": watcher.connected,
        "applied_revision": watcher.applied_revision,
        "lag": row.lag,
        "silent_for_seconds": _seconds(watcher.silent_for),
        "max_staleness_seconds": _seconds(watcher.max_staleness),
        "figures": None if watcher.figures is None else _figures(watcher.figures),
        "since_start": _rates(row.since_start),
        "last_interval": _rates(row.rates),
    }


def _figures(figures: SidecarFigures) -> dict[str, Any]:
    return {
        "uptime_seconds": _seconds(figures.uptime),
        "lease_held": figures.lease_held,
        "lease_age_seconds": _seconds(figures.lease_age),
        "cached_sessions": figures.cached_sessions,
        "denials": {REASONS.get(reason, str(reason)): count for reason, count in sorted(figures.denials.items())},
    }


def _rates(rates: Rates | None) -> dict[str, Any] | None:
    if rates is None:
        return None
    return {
        "seconds": rates.seconds,
        "hits": rates.hits,
        "misses": rates.misses,
        "hit_ratio": rates.hit_ratio,
        "denials": rates.denials,
        "unavailable": rates.unavailable,
        "answers_beyond_lease": rates.beyond_lease,
    }


def _seconds(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds()
