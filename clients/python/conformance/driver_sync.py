"""The driver of the client without asyncio: `python -m clients.python.conformance.driver_sync`.

Who gives up here is the main thread, which a signal interrupts, as a server's watchdog does.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from clients.python.conformance import messages
from conformance.v1 import conformance_pb2
from trustlayer import Client


class _GivenUpError(BaseException):
    """What the signal raises: none that a client could take for one of its own."""


def main() -> int:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGALRM, _give_up)
    clients: dict[str, Client] = {}
    while (request := messages.read_request(sys.stdin.buffer)) is not None:
        messages.write_response(sys.stdout.buffer, _respond(clients, request))
    return 0


def _give_up(*_: object) -> None:
    raise _GivenUpError


def _respond(clients: dict[str, Client], request: conformance_pb2.DriverRequest) -> conformance_pb2.DriverResponse:
    if request.HasField("describe"):
        return messages.describe()
    try:
        client = clients.setdefault(request.socket, Client(request.socket))
        call = messages.prepared(client, request)
        with _giving_up(messages.seconds(request.cancel_after) if request.HasField("cancel_after") else 0.0):
            result = call()
    except _GivenUpError:
        return conformance_pb2.DriverResponse(cancelled=conformance_pb2.Cancelled())
    except Exception as error:  # noqa: BLE001 - the runner is told of whatever came
        return messages.failed(error)
    return messages.answered(result)


@contextmanager
def _giving_up(after: float) -> Iterator[None]:
    """Interrupt what is inside after so many seconds; 0: never."""
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


if __name__ == "__main__":
    raise SystemExit(main())
