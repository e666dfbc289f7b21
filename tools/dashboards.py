"""Write the Grafana dashboards `deploy/grafana/*.json`: `make dashboards`. With `--check` say whether they are so.

A panel is a line here and sixty in Grafana's JSON. Change panels here; what is changed in Grafana alone is lost at
the next import.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.processes import ROOT

DIRECTORY: Final = ROOT / "deploy" / "grafana"
_COLUMNS: Final = 24
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_SELECTED: Final = '{job=~"$job",instance=~"$instance"}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel. In a query `NAME[]` stands for the metric of the chosen instances, `NAME[label="x"]` for some of it.

    `queries`: legend -> query. `unit` is Grafana's. `whole`: from 0 up to it, where there is a most.
    """

    title: str
    text: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    whole: float | None = None
    stacked: bool = False

    @property
    def expressions(self) -> dict[str, str]:
        """Legend -> query as Prometheus takes it, but for Grafana's variables."""
        return {legend: _selected(query) for legend, query in self.queries.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard: rows of panels. `metric` is one that every instance serves."""

    uid: str
    title: str
    metric: str
    rows: dict[str, tuple[Panel, ...]]

    @property
    def file(self) -> Path:
        """Where it is kept."""
        return DIRECTORY / f"{self.uid.removeprefix('trustlayer-')}.json"

    @property
    def panels(self) -> Iterator[Panel]:
        """All panels, in their order."""
        for panels in self.rows.values():
            yield from panels


def _selected(query: str) -> str:
    """Put the variables into the query's selectors."""
    return query.replace("[]", _SELECTED).replace("[?", _SELECTED[:-1] + ",").replace("?]", "}")


def _rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def _quantile(quantile: float, metric: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({metric}[$__rate_interval])))"


def _process(metric: str, of: str) -> str:
    """Of the program's own processes: the library's metrics have no name of ours."""
    return f"{metric}[] and on (job, instance) {of}[]"


def _processes(of: str) -> tuple[Panel, ...]:
    cpu = f"rate(process_cpu_seconds_total[][$__rate_interval]) and on (job, instance) {of}[]"
    return (
        Panel(
            title="Memory",
            text="Resident memory of the process; of Flowless without its hashing workers.",
            queries={"{{instance}}": _process("process_resident_memory_bytes", of)},
            unit="bytes",
        ),
        Panel(
            title="Processor",
            text="Processors in use; one process uses little more than one.",
            queries={"{{instance}}": cpu},
        ),
        Panel(
            title="File descriptors",
            text="Open file descriptors: connections, mostly.",
            queries={"{{instance}}": _process("process_open_fds", of)},
        ),
        Panel(
            title="Uptime",
            text="Since the process started. A step down to zero is a restart.",
            queries={"{{instance}}": f"time() - ({_process('process_start_time_seconds', of)})"},
            unit="s",
        ),
    )


FLOWLESS: Final = Dashboard(
    uid="trustlayer-flowless",
    title="Trust Layer: Flowless",
    metric="flowless_build_info",
    rows={
        "At a glance": (
            Panel(
                title="Replicas",
                text="Processes of Flowless that Prometheus reaches.",
                queries={"": "count(flowless_build_info[])"},
                kind="stat",
            ),
            Panel(
                title="Watch streams",
                text="Sidecars that watch for revocations, at all replicas together.",
                queries={"": "sum(flowless_watchers[])"},
                kind="stat",
            ),
            Panel(
                title="Log cannot be read",
                text="Replicas that cannot read the revocation log now. Their sidecars lose their leases.",
                queries={"": "sum(flowless_revocation_tail_failing[])"},
                kind="stat",
            ),
            Panel(
                title="Certificate ends in",
                text="Time left of the certificate that listeners show; no data where there is no TLS.",
                queries={"": "min(flowless_tls_certificate_not_after_seconds[]) - time()"},
                unit="s",
                kind="stat",
            ),
        ),
        "Calls": (
            Panel(
                title="Calls by RPC",
                text="Calls that ended, per second. `other` are names that Flowless does not serve.",
                queries={"{{rpc}}": _rate("flowless_calls_total[]", "rpc")},
                unit="reqps",
            ),
            Panel(
                title="Calls by code",
                text="The same by gRPC code. CANCELLED are callers that went away, and streams that ended.",
                queries={"{{code}}": _rate("flowless_calls_total[]", "code")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Errors by reason",
                text="Calls that ended with an error of ours. LOGIN_REFUSED is a wrong password, not a fault.",
                queries={"{{reason}}": _rate("flowless_call_errors_total[]", "reason")},
                unit="reqps",
            ),
            Panel(
                title="Duration of calls, 99th percentile",
                text="By RPC, without streams. Logins take as long as a password hash and the wait for it.",
                queries={"{{rpc}}": _quantile(0.99, "flowless_call_seconds_bucket[]", "rpc")},
                unit="s",
            ),
            Panel(
                title="Duration of ValidateSession",
                text="What a sidecar waits for when a session is not in its cache.",
                queries={
                    f"{name}": _quantile(q, 'flowless_call_seconds_bucket[?rpc="BridgeService/ValidateSession"?]')
                    for name, q in (("median", 0.5), ("95 %", 0.95), ("99 %", 0.99))
                },
                unit="s",
            ),
            Panel(
                title="Calls under way",
                text="Open streams included. At flowless_calls_limit gRPC refuses more.",
                queries={"{{instance}}": "flowless_calls_in_flight[]"},
            ),
        ),
        "Validations": (
            Panel(
                title="Validations by tier",
                text="Who knew the answer to sidecars' questions.",
                queries={"{{tier}}": _rate("flowless_validations_total[]", "tier")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Hit ratio of Redis",
                text="Share of validations that Redis answered. No data where nobody asks.",
                queries={
                    "hit ratio": 'sum(rate(flowless_validations_total[?tier="redis"?][$__rate_interval])) / '
                    'sum(rate(flowless_validations_total[?tier=~"redis|database"?][$__rate_interval]))'
                },
                unit="percentunit",
                whole=1,
            ),
            Panel(
                title="Denials by reason",
                text="Sessions that were not active when a sidecar asked.",
                queries={"{{reason}}": _rate("flowless_denials_total[]", "reason")},
                unit="reqps",
            ),
            Panel(
                title="Mismatch reports",
                text="Sessions that sidecars report as used from elsewhere, and whether they were revoked for it.",
                queries={"{{outcome}}": _rate("flowless_mismatch_reports_total[]", "outcome")},
                unit="reqps",
            ),
        ),
        "Revocations": (
            Panel(
                title="Revisions written",
                text="Growth of the revocation log.",
                queries={"revisions": "max(rate(flowless_revocation_log_revision[][$__rate_interval]))"},
                unit="ops",
            ),
            Panel(
                title="Age of what is known of the log",
                text="Since the last read of the log began. It grows while the database does not answer.",
                queries={"{{instance}}": "flowless_revocation_tail_age_seconds[]"},
                unit="s",
            ),
            Panel(
                title="Lag of watchers",
                text="Revisions that the slowest watcher has not confirmed. They confirm with each ping: seldom 0.",
                queries={"{{instance}}": "flowless_watcher_lag_revisions[]"},
            ),
            Panel(
                title="Watch streams by replica",
                text="How sidecars are spread over replicas.",
                queries={"{{instance}}": "flowless_watchers[]"},
            ),
            Panel(
                title="Revokes that wait for all sidecars",
                text="Reached: no sidecar says yes any more. Not reached: the caller's time was up before.",
                queries={"{{outcome}}": _rate("flowless_barriers_total[]", "outcome")},
                unit="reqps",
            ),
        ),
        "Passwords": (
            Panel(
                title="Hashes at work and waiting",
                text="When the queue is full, logins are refused with HASHING_OVERLOADED.",
                queries={
                    "running": "sum(flowless_hashing_running[])",
                    "workers": "sum(flowless_hashing_workers[])",
                    "waiting": "sum(flowless_hashing_waiting[])",
                    "queue": "sum(flowless_hashing_queue_capacity[])",
                },
            ),
            Panel(
                title="Hashes refused",
                text="queue_full: too many at once. interrupted: workers died.",
                queries={"{{why}}": _rate("flowless_hashing_refused_total[]", "why")},
                unit="reqps",
            ),
            Panel(
                title="Time of hashes",
                text="Waiting for a worker, and the worker's own time; 95th percentile.",
                queries={
                    "waited": _quantile(0.95, "flowless_hashing_wait_seconds_bucket[]"),
                    "worked": _quantile(0.95, "flowless_hashing_work_seconds_bucket[]"),
                },
                unit="s",
            ),
        ),
        "Refused": (
            Panel(
                title="Attempts refused",
                text="Passwords and tokens that were not even checked, because of too many attempts.",
                queries={"{{kind}}": _rate("flowless_attempts_refused_total[]", "kind")},
                unit="reqps",
            ),
            Panel(
                title="Calls refused at the door",
                text="For their credential or its scope, or because there is no such RPC.",
                queries={"{{reason}}": _rate("flowless_calls_refused_total[]", "reason")},
                unit="reqps",
            ),
        ),
        "Database and Redis": (
            Panel(
                title="Connections in use",
                text="By pool, beside how many it has.",
                queries={
                    "{{pool}}": "sum by (pool) (flowless_database_pool_in_use[])",
                    "size of {{pool}}": "sum by (pool) (flowless_database_pool_size[])",
                },
            ),
            Panel(
                title="Wait for a connection, 99th percentile",
                text="Opening and trying one included; for SQLite's writer, until the transaction has begun.",
                queries={"{{pool}}": _quantile(0.99, "flowless_database_pool_wait_seconds_bucket[]", "pool")},
                unit="s",
            ),
            Panel(
                title="Callers that wait, or waited in vain",
                text="Waiting now, and per second those that got no connection in time.",
                queries={
                    "waiting: {{pool}}": "sum by (pool) (flowless_database_pool_waiting[])",
                    "timed out: {{pool}}": _rate("flowless_database_pool_timeouts_total[]", "pool"),
                },
            ),
            Panel(
                title="Redis",
                text="What became of calls of Redis. Skipped: while it is left alone.",
                queries={"{{event}}": _rate("flowless_redis_events_total[]", "event")},
                unit="ops",
            ),
            Panel(
                title="Redis left alone",
                text="1 while the breaker is open, or attempts are counted by each replica alone.",
                queries={
                    "breaker open: {{instance}}": "flowless_redis_breaker_open[]",
                    "counted alone: {{instance}}": "flowless_attempts_counted_alone[]",
                },
                whole=1,
            ),
        ),
        "Mail and housekeeping": (
            Panel(
                title="Mails that wait",
                text="In the outbox, as last counted.",
                queries={"waiting": "max(flowless_mail_waiting[])"},
            ),
            Panel(
                title="Attempts to send",
                text="What became of them. Retried: another attempt follows.",
                queries={"{{outcome}}": _rate("flowless_mail_attempts_total[]", "outcome")},
                unit="ops",
            ),
            Panel(
                title="Housekeeping",
                text="Rows deleted by kind, and rounds by outcome. Skipped: another replica was at it.",
                queries={
                    "rows: {{kind}}": _rate("flowless_housekeeping_deleted_rows_total[]", "kind"),
                    "rounds: {{outcome}}": _rate("flowless_housekeeping_rounds_total[]", "outcome"),
                },
                unit="ops",
            ),
        ),
        "Process": _processes("flowless_build_info"),
    },
)

SIDECAR: Final = Dashboard(
    uid="trustlayer-bridge-sidecar",
    title="Trust Layer: sidecars",
    metric="bridge_sidecar_build_info",
    rows={
        "At a glance": (
            Panel(
                title="Sidecars",
                text="Sidecars that Prometheus reaches.",
                queries={"": "count(bridge_sidecar_build_info[])"},
                kind="stat",
            ),
            Panel(
                title="Without a lease",
                text="Sidecars whose cache may not say yes now.",
                queries={"": "count(bridge_sidecar_lease_held[]) - sum(bridge_sidecar_lease_held[])"},
                kind="stat",
            ),
            Panel(
                title="Hit ratio",
                text="Share of questions that were answered from memory.",
                queries={
                    "": "sum(rate(bridge_sidecar_hits_total[][$__rate_interval])) / "
                    "(sum(rate(bridge_sidecar_hits_total[][$__rate_interval])) + "
                    "sum(rate(bridge_sidecar_misses_total[][$__rate_interval])))"
                },
                unit="percentunit",
                kind="stat",
            ),
            Panel(
                title="Fail closed",
                text="Questions per second that ended UNAVAILABLE.",
                queries={"": "sum(rate(bridge_sidecar_unavailable_total[][$__rate_interval]))"},
                unit="reqps",
                kind="stat",
            ),
        ),
        "Lease and watch": (
            Panel(
                title="Lease held",
                text="1 while the cache may be trusted.",
                queries={"{{instance}}": "bridge_sidecar_lease_held[]"},
                whole=1,
            ),
            Panel(
                title="Age of the lease",
                text="Since the ping was sent that it runs from. Saw teeth are right; past max_staleness it is lost.",
                queries={"{{instance}}": "bridge_sidecar_lease_age_seconds[]"},
                unit="s",
            ),
            Panel(
                title="State of the watch",
                text="Sidecars by state. Refused: Flowless does not take the bridge secret.",
                queries={"{{state}}": "sum by (state) (bridge_sidecar_watch_state[])"},
                stacked=True,
            ),
            Panel(
                title="Ping to pong",
                text="The newest round trip of the watch.",
                queries={"{{instance}}": "bridge_sidecar_watch_round_trip_seconds[]"},
                unit="s",
            ),
            Panel(
                title="Revision lag",
                text="Revisions that answers of Flowless spoke of and that are not applied.",
                queries={"{{instance}}": "bridge_sidecar_revision_lag[]"},
            ),
            Panel(
                title="Newest revocation within",
                text="Bound of the time from when the newest row was written until it was applied.",
                queries={"{{instance}}": "bridge_sidecar_last_revocation_within_seconds[]"},
                unit="s",
            ),
        ),
        "Answers": (
            Panel(
                title="Questions",
                text="Answered from memory, asked of Flowless, ended UNAVAILABLE, and malformed ids.",
                queries={
                    name: f"sum(rate(bridge_sidecar_{metric}_total[][$__rate_interval]))"
                    for name, metric in (
                        ("hits", "hits"),
                        ("misses", "misses"),
                        ("unavailable", "unavailable"),
                        ("malformed", "malformed"),
                        ("beyond the lease", "answers_beyond_lease"),
                    )
                },
                unit="reqps",
            ),
            Panel(
                title="Hit ratio by instance",
                text="Share of questions that were answered from memory. Falls to 0 without a lease.",
                queries={
                    "{{instance}}": "rate(bridge_sidecar_hits_total[][$__rate_interval]) / "
                    "(rate(bridge_sidecar_hits_total[][$__rate_interval]) + "
                    "rate(bridge_sidecar_misses_total[][$__rate_interval]))"
                },
                unit="percentunit",
                whole=1,
            ),
            Panel(
                title="Time of answers, 99th percentile",
                text="Inside the sidecar, by who knew; unanswered are errors and callers that went away.",
                queries={"{{tier}}": _quantile(0.99, "bridge_sidecar_validation_seconds_bucket[]", "tier")},
                unit="s",
            ),
            Panel(
                title="Denials by reason",
                text="Sessions that were not good for the request.",
                queries={"{{reason}}": _rate("bridge_sidecar_denials_total[]", "reason")},
                unit="reqps",
            ),
            Panel(
                title="Mismatches reported",
                text='Sessions used from elsewhere where a rule says `on_mismatch = "revoke"`.',
                queries={"{{outcome}}": _rate("bridge_sidecar_mismatch_reports_total[]", "outcome")},
                unit="reqps",
            ),
            Panel(
                title="Misses under way",
                text="Questions that Flowless is asked now. At bridge_sidecar_misses_limit more are UNAVAILABLE.",
                queries={"{{instance}}": "bridge_sidecar_misses_under_way[]"},
            ),
        ),
        "Calls of apps and proxies": (
            Panel(
                title="Calls by RPC",
                text="On the socket: validations, and what is relayed to Flowless.",
                queries={"{{rpc}}": _rate("bridge_sidecar_calls_total[]", "rpc")},
                unit="reqps",
            ),
            Panel(
                title="Calls by code",
                text="The same by gRPC code.",
                queries={"{{code}}": _rate("bridge_sidecar_calls_total[]", "code")},
                unit="reqps",
                stacked=True,
            ),
            Panel(
                title="Errors by reason",
                text="Those of this sidecar, and those of Flowless that it relays.",
                queries={"{{reason}}": _rate("bridge_sidecar_call_errors_total[]", "reason")},
                unit="reqps",
            ),
            Panel(
                title="Decisions for proxies",
                text="What Envoy or another proxy was told about requests; no data where none may ask.",
                queries={"{{decision}}": _rate("bridge_sidecar_gate_decisions_total[]", "decision")},
                unit="reqps",
                stacked=True,
            ),
        ),
        "Cache": (
            Panel(
                title="Sessions in the cache",
                text="By instance.",
                queries={"{{instance}}": "bridge_sidecar_cached_sessions[]"},
            ),
            Panel(
                title="Weight of the cache",
                text="As the cache counts it, against its own limit.",
                queries={"{{instance}}": "bridge_sidecar_cached_bytes[]"},
                unit="bytes",
            ),
        ),
        "Process": _processes("bridge_sidecar_build_info"),
    },
)

DASHBOARDS: Final = (FLOWLESS, SIDECAR)


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.whole is not None:
        defaults["max"] = panel.whole
    made: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                "range": True,
            }
            for index, (legend, query) in enumerate(panel.expressions.items())
        ],
    }
    if panel.kind == "stat":
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none", "graphMode": "area"}
    else:
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["custom"] = {"fillOpacity": 20 if panel.stacked else 5, "showPoints": "never", "stacking": stacking}
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return made


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, top = 0, 0
    for title, panels in dashboard.rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"h": 1, "w": _COLUMNS, "x": 0, "y": top},
        }
        top += 1
        across = 4 if panels[0].kind == "stat" else 3 if len(panels) > 2 else 2
        width, height = _COLUMNS // across, 4 if panels[0].kind == "stat" else 8
        for index, panel in enumerate(panels):
            number += 1
            line, column = divmod(index, across)
            place = {"h": height, "w": width, "x": column * width, "y": top + line * height}
            yield _panel(panel, number, place)
        top += height * -(-len(panels) // across)


def document(dashboard: Dashboard) -> str:
    """Make Grafana's JSON of a dashboard."""
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    made = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": "Made by `make dashboards`. What each alert and metric means is in docs/operations.",
        "tags": ["trustlayer"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                source,
                _variable("job", f"label_values({dashboard.metric}, job)"),
                _variable("instance", f'label_values({dashboard.metric}{{job=~"$job"}}, instance)'),
            ]
        },
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the files, or say which are not as they should be."""
    stale = [each.file for each in DASHBOARDS if not each.file.exists() or each.file.read_text() != document(each)]
    if "--check" in arguments:
        for file in stale:
            print(f"{file.relative_to(ROOT)} is not up to date: make dashboards", file=sys.stderr)
        return int(bool(stale))
    DIRECTORY.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        dashboard.file.write_text(document(dashboard))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
