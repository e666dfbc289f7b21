"""The driver of the client of asyncio: `python -m clients.python.conformance.driver_asyncio`."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from clients.python.conformance import messages
from conformance.v1 import conformance_pb2
from trustlayer import aio


async def main() -> int:
    """Answer requests until there are no more."""
    clients: dict[str, aio.Client] = {}
    while (request := await asyncio.to_thread(messages.read_request, sys.stdin.buffer)) is not None:
        messages.write_response(sys.stdout.buffer, await _respond(clients, request))
    return 0


async def _respond(
    clients: dict[str, aio.Client], request: conformance_pb2.DriverRequest
) -> conformance_pb2.DriverResponse:
    if request.HasField("describe"):
        return messages.describe()
    try:
        client = clients.setdefault(request.socket, aio.Client(request.socket))
        call = messages.prepared(client, request)
        after = messages.seconds(request.cancel_after) if request.HasField("cancel_after") else None
        result = await _given_up(call, after)
    except asyncio.CancelledError:
        return conformance_pb2.DriverResponse(cancelled=conformance_pb2.Cancelled())
    except Exception as error:  # noqa: BLE001 - the runner is told of whatever came
        return messages.failed(error)
    return messages.answered(result)


async def _given_up(call: Callable[[], Any], after: float | None) -> Any:
    """Cancel the call's task after so many seconds; `None`: never."""
    task = asyncio.ensure_future(call())
    if after is not None:
        asyncio.get_running_loop().call_later(after, task.cancel)
    return await task


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
