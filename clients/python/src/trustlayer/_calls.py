"""What holds for every call, with and without asyncio: its deadline, whether it is made again, how it connects."""

import time
from typing import Final

from google.protobuf import descriptor_pb2
from grpc import StatusCode

from trustlayer.errors import Failure
from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, validator_pb2

DEFAULT_TIMEOUT: Final = 2.0
"""Seconds for what the sidecar itself answers: validations and its status."""
DEFAULT_CALL_TIMEOUT: Final = 10.0
"""Seconds for what it relays."""
_RETRY_DELAYS: Final = (0.020, 0.060, 0.180)

CHANNEL_OPTIONS: Final = (
    # gRPC's own waits, of seconds, would keep an app from a sidecar that is back. Shorter than the delays of
    # `Attempts` together, so that the first call after its return is answered.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    # Bounds a connection that is accepted and not answered.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    # Clients share nothing, so that closing one, or its bad luck, is no other's.
    ("grpc.use_local_subchannel_pool", 1),
)

_VALIDATOR: Final = validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"]
_SERVICES: Final = (
    _VALIDATOR,
    identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    trust_token_pb2.DESCRIPTOR.services_by_name["TrustTokenService"],
)
_WITHOUT_SIDE_EFFECTS: Final = frozenset(
    f"/{service.full_name}/{method.name}"
    for service in _SERVICES
    for method in service.methods
    if method.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
)


def target_of(socket: str) -> str:
    """Give gRPC's name of a socket, by its path. Raises `ValueError` for what is no path, such as an address."""
    if not socket or socket.startswith(("unix:", "unix-abstract:")):
        raise ValueError("socket is the path of the sidecar's socket, without a scheme")
    return f"unix:{socket}"


def default_timeout(method: str, validator_timeout: float, call_timeout: float) -> float:
    """Give the deadline of a call without one, in seconds."""
    return validator_timeout if method.startswith(f"/{_VALIDATOR.full_name}/") else call_timeout


class Attempts:
    """One call, which may be made several times. Not longer than its timeout, in seconds, in all."""

    __slots__ = ("_deadline", "_made", "_repeatable")

    def __init__(self, method: str, timeout: float) -> None:
        self._deadline = time.monotonic() + timeout
        self._repeatable = method in _WITHOUT_SIDE_EFFECTS
        self._made = 0

    @property
    def time_left(self) -> float:
        """Seconds until the deadline."""
        return max(0.0, self._deadline - time.monotonic())

    def delay_before_next(self, failure: Failure) -> float | None:
        """Seconds to wait before the call is made again; `None` if it is not.

        Only what reached no sidecar is repeated, and only where that cannot do anything twice.
        """
        if not self._repeatable or failure.code is not StatusCode.UNAVAILABLE or failure.is_answer:
            return None
        if self._made == len(_RETRY_DELAYS):
            return None
        delay = _RETRY_DELAYS[self._made]
        self._made += 1
        return delay if delay < self.time_left else None
