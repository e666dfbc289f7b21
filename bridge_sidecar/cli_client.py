"""The commands that ask a running sidecar through its socket: check, status."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict

from bridge_sidecar.cli import Exit
from trust_core import grpc_edge
from trust_core.modes import ValidationMode
from trustlayer.v1 import types_pb2, validator_pb2, validator_pb2_grpc

_EXITS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.USAGE,
}
_MAX_ID_BYTES: Final = 64 * 1024


def run(arguments: argparse.Namespace) -> Exit:
    """Run the command over a channel to the socket, and turn errors into exit codes."""
    command: Callable[[validator_pb2_grpc.ValidatorServiceStub, argparse.Namespace], Exit] = {
        "check": _check,
        "status": _status,
    }[arguments.command]
    options = (("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0))
    with grpc.insecure_channel(f"unix:{arguments.socket}", options=options) as channel:
        try:
            return command(validator_pb2_grpc.ValidatorServiceStub(channel), arguments)
        except grpc.RpcError as error:
            return _failed(error, arguments)
        except UnicodeError:
            print("bridge-sidecar: arguments must be UTF-8 text", file=sys.stderr)
            return Exit.USAGE


def _failed(error: grpc.RpcError, arguments: argparse.Namespace) -> Exit:
    code, reason = error.code(), grpc_edge.reason_of(error)
    text = error.details() if reason else f"no sidecar answers on {arguments.socket}"
    exit_code = _EXITS.get(code, Exit.UNAVAILABLE)
    if arguments.json:
        _print_json({"error": {"code": code.name, "reason": reason, "message": text}})
    else:
        print(f"bridge-sidecar: {code.name}{f' {reason}' if reason else ''}: {text}", file=sys.stderr)
    return exit_code


def _check(stub: validator_pb2_grpc.ValidatorServiceStub, arguments: argparse.Namespace) -> Exit:
    session_id = arguments.session_id
    if session_id == "-":
        session_id = sys.stdin.buffer.read(_MAX_ID_BYTES).decode("utf-8").strip()
    request = validator_pb2.ValidateRequest(
        session_id=session_id,
        mode=types_pb2.ValidationMode.ValueType(ValidationMode[arguments.mode.upper()] if arguments.mode else 0),
        context=types_pb2.RequestContext(
            client_ip=arguments.ip, device_fingerprint=arguments.device, user_agent=arguments.user_agent
        ),
        min_revision=arguments.min_revision,
        route=arguments.route,
        http_method=arguments.request[0],
        path=arguments.request[1],
    )
    response = stub.Validate(request, timeout=arguments.timeout)
    active = response.WhichOneof("result") == "session"
    if arguments.json:
        _print_json({"active": active, **_as_dict(response)})
    elif active:
        _print_rows(_describe_session(response.session) + _describe_freshness(response.freshness))
    else:
        reason = types_pb2.DenialReason.Name(response.denial.reason).removeprefix("DENIAL_REASON_")
        _print_rows([("DENIED", f"{reason}: {response.denial.message}"), *_describe_freshness(response.freshness)])
    return Exit.OK if active else Exit.DENIED


def _status(stub: validator_pb2_grpc.ValidatorServiceStub, arguments: argparse.Namespace) -> Exit:
    status = stub.GetStatus(validator_pb2.GetStatusRequest(), timeout=arguments.timeout)
    if arguments.json:
        _print_json(_as_dict(status))
        return Exit.OK
    watch = validator_pb2.WatchState.Name(status.watch_state).removeprefix("WATCH_STATE_")
    lease = (
        f"held, {_seconds(status.lease_remaining)} left" if status.lease_held else "not held: the cache is not used"
    )
    age = f"; its ping was sent {_seconds(status.lease_age)} ago" if status.HasField("lease_age") else ""
    round_trip = f", round trip {_seconds(status.watch_round_trip)}" if status.HasField("watch_round_trip") else ""
    applied = (
        f"applied within {_seconds(status.last_revocation_within)} of its writing"
        if status.HasField("last_revocation_within")
        else "none that can be timed"
    )
    _print_rows(
        [
            ("lease", f"{lease}{age}"),
            ("watch", f"{watch}, revision {status.applied_revision}{round_trip}"),
            ("last revocation", applied),
            ("max staleness", _seconds(status.max_staleness)),
            ("cache", f"{status.cached_sessions} sessions, {status.cached_bytes / 1024:.0f} KiB"),
            ("answers", f"{status.hits} hits, {status.misses} misses, {status.malformed} malformed"),
            ("unavailable", str(status.unavailable)),
            ("beyond lease", f"{status.answers_beyond_lease} answers, outside the guarantee"),
            ("rules", f"{status.rules}{', NOT those of the file, see below' if status.rule_problems else ''}"),
            (
                "mismatches",
                f"{status.mismatches_reported} reported, {status.mismatches_not_reported} could not be",
            ),
            ("upstream calls", str(status.upstream_calls)),
            ("prewarmed", f"{status.prewarmed_sessions} sessions"),
            ("uptime", _seconds(status.uptime)),
            ("version", status.version),
            *(("rule problem", problem) for problem in status.rule_problems),
        ]
    )
    return Exit.OK


def _describe_session(session: types_pb2.Session) -> list[tuple[str, str]]:
    user = session.user
    name = " ".join(part for part in (user.name, user.last_name) if part)
    return [
        ("ACTIVE", session.handle),
        ("user", " ".join(part for part in (user.id, user.email, name) if part)),
        ("roles", ", ".join(user.roles) or "none"),
        ("ends", session.expire_time.ToJsonString()),
    ]


def _describe_freshness(freshness: types_pb2.Freshness) -> list[tuple[str, str]]:
    tier = types_pb2.Tier.Name(freshness.tier).removeprefix("TIER_")
    rows = [("tier", f"{tier}, revision {freshness.revision}, age {_seconds(freshness.age)}")]
    if freshness.HasField("beyond_lease"):
        ago = _seconds(freshness.beyond_lease)
        rows.append(("BEYOND LEASE", f"it ran out {ago} ago; the operator allows this answer, outside the guarantee"))
    return rows


def _seconds(duration: Duration) -> str:
    return f"{duration.seconds + duration.nanos / 1e9:.3f} s"


def _as_dict(message: Any) -> dict[str, Any]:
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False))


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"{label.ljust(width)}  {text}")
