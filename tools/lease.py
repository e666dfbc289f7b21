"""Wait for a sidecar's first lease: before it, the sidecar rightly answers nothing from its cache."""

import time
from pathlib import Path
from typing import Final

import grpc

from tools.processes import ProcessError, last_lines
from trustlayer.v1 import validator_pb2
from trustlayer.v1.validator_pb2_grpc import ValidatorServiceStub

LEASE_SECONDS: Final = 30.0
"""Far longer than the one ping and its answer that a first lease takes."""
CALL_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.005


def wait_for_lease(
    validator: ValidatorServiceStub, *, log: Path | None = None, seconds: float = LEASE_SECONDS
) -> None:
    """Return once the sidecar holds a lease. Raises `ProcessError`, with the end of its log, when it gets none."""
    deadline = time.monotonic() + seconds
    why = "has no lease"
    while time.monotonic() < deadline:
        try:
            if validator.GetStatus(validator_pb2.GetStatusRequest(), timeout=CALL_SECONDS).lease_held:
                return
        except grpc.RpcError as error:
            why = f"does not say whether it has one: {error}"
            break
        time.sleep(_POLL_SECONDS)
    raise ProcessError(f"waited for the sidecar's lease; it {why}" + (f"\n{last_lines(log)}" if log else ""))
