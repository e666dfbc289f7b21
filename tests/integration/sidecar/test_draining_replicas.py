"""Calls that must not be made twice, while gRPC servers stop under them: none fails, and none is done twice."""

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from bridge_sidecar.bridge_secret import FixedSecret
from bridge_sidecar.upstream import OPTIONS, Upstream
from bridge_sidecar.upstream_channel import UpstreamChannel
from tests.support.sidecar import new_secret
from tools.processes import free_port

pytestmark = pytest.mark.long

METHOD = "/test.Once/Do"
CALLERS = 20
RESTARTS = 6


class Replica:
    """A server that can be stopped and started again where it was, and notes what it has done."""

    def __init__(self, done: Counter[bytes]) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._done = done
        self._server = grpc.aio.server()

    async def _do(self, request: bytes, _: Any) -> bytes:
        self._done[request] += 1
        await asyncio.sleep(0.002)
        return request

    async def start(self) -> None:
        self._server = grpc.aio.server()
        handlers: dict[str, Any] = {"Do": grpc.unary_unary_rpc_method_handler(self._do)}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Once", handlers),))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(20)


async def test_replicas_that_drain_in_turn_fail_no_call_and_no_call_is_done_twice() -> None:
    done: Counter[bytes] = Counter()
    replicas = [Replica(done) for _ in range(2)]
    for replica in replicas:
        await replica.start()
    channel = UpstreamChannel(address=",".join(replica.address for replica in replicas), files=None, options=OPTIONS)
    upstream = Upstream(channels=channel, secret=FixedSecret(secret=new_secret()))
    answered: list[bytes] = []
    failed: list[str] = []
    ended = asyncio.Event()

    async def call_on(caller: int) -> None:
        number = 0
        while not ended.is_set():
            number += 1
            request = b"%d-%d" % (caller, number)
            try:
                response = await upstream.relay(METHOD, request, timeout_seconds=20, repeatable=False)
            except grpc.aio.AioRpcError as error:
                failed.append(f"{error.code().name}: {error.details()}")
            else:
                answered.append(response.data)

    callers = [asyncio.create_task(call_on(caller)) for caller in range(CALLERS)]
    for turn in range(RESTARTS):
        before = len(answered)
        while len(answered) < before + 100:
            await asyncio.sleep(0.01)
        replica = replicas[turn % 2]
        await replica.stop()
        await replica.start()
        await asyncio.sleep(1.0)  # twice the longest time in which the channel tries it again
    ended.set()
    await asyncio.gather(*callers)
    await upstream.close()
    for replica in replicas:
        await replica.stop()
    assert failed == []
    assert done == Counter(answered)
    assert set(done.values()) == {1}
