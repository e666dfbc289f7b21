"""A line for each call, or for each that failed: what was called, how it ended, how long it took. Off by default.

It holds no session id, no person and no address: what is needed of those is in the audit log, under the same request
id.
"""

from collections.abc import Callable
from typing import Any, Final, Literal

from trust_core import logs, request_ids
from trust_core.clock import Clock
from trust_core.grpc_edge import Context

Which = Literal["off", "failed", "all"]
WHICH: Final = ("off", "failed", "all")
_NS_PER_MILLISECOND: Final = 1_000_000
_HEALTH: Final = "/grpc.health.v1.Health/"


class _Logged:
    def __init__(self, log: "RequestLog", fields: dict[str, Any]) -> None:
        self._log = log
        self._fields = fields
        self._began_ns = log.clock.elapsed_ns()
        self._request_id = request_ids.running()

    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""
        if code == "OK" and self._log.only_failed:
            return
        taken_ns = self._log.clock.elapsed_ns() - self._began_ns
        self._log.write(
            **self._fields,
            code=code,
            **({"reason": reason} if reason else {}),
            milliseconds=round(taken_ns / _NS_PER_MILLISECOND, 3),
            **({} if self._request_id is None else {"request_id": self._request_id.get()}),
        )


class RequestLog:
    """Observes calls (`grpc_edge.CallObserver`)."""

    def __init__(
        self, *, program: str, only_failed: bool, clock: Clock, bridge: Callable[[], str] | None = None
    ) -> None:
        """`bridge` names the maker of the running call, empty for nobody."""
        self._logger = logs.get_logger(program)
        self._bridge = bridge
        self.only_failed = only_failed
        self.clock = clock

    def begin(self, method: str, _context: Context) -> "_Logged | _NotLogged":
        """See `grpc_edge.CallObserver`. Probes are left out."""
        if method.startswith(_HEALTH):
            return _NOT_LOGGED
        bridge = "" if self._bridge is None else self._bridge()
        return _Logged(self, {"method": method or "other", **({"bridge": bridge} if bridge else {})})

    def write(self, **fields: object) -> None:
        """Write one line."""
        self._logger.info("request", **fields)


class _NotLogged:
    def finish(self, code: str, reason: str) -> None:
        """See `grpc_edge.ObservedCall`."""


_NOT_LOGGED: Final = _NotLogged()
