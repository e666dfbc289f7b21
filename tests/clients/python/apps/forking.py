"""Forks and multiprocessing around clients that were used before: prints a line of JSON for what came of each."""

import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import sys
import threading
from typing import Any

from trustlayer import Client, aio

asked: dict[str, str] = json.load(sys.stdin)
client = Client(asked["socket"], timeout=10.0)
aio_client = aio.Client(asked["socket"], timeout=10.0)


def ask(_: int = 0) -> tuple[int, str]:
    """Validate in this process."""
    found = client.validate(asked["session_id"], client_ip=asked["client_ip"])
    return os.getpid(), found.session.user.email


async def ask_aio() -> str:
    """Validate in this loop."""
    found = await aio_client.validate(asked["session_id"], client_ip=asked["client_ip"])
    return found.session.user.email


def in_fork(work: Any) -> str:
    """Do the work in a child; gives what it came to."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            said = str(work())
        except Exception as error:  # noqa: BLE001
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as result:
        said = result.read()
    os.waitpid(pid, 0)
    return said


def say(what: str, result: Any) -> None:
    """Print one line."""
    print(json.dumps({what: result}), flush=True)


def use_forks() -> None:
    """Use both clients before and after forks, in the parent, a child, and a child of a child."""
    say("parent before", ask()[1])
    before = client._channel.current()
    say("child", in_fork(lambda: ask()[1]))
    say("child has its own", in_fork(lambda: (ask(), client._channel.current() is not before)[1]))
    say("child of a child", in_fork(lambda: (ask(), in_fork(lambda: ask()[1]))[1]))
    say("asyncio before", asyncio.run(ask_aio()))
    say("asyncio in a child", in_fork(lambda: asyncio.run(ask_aio())))
    say("parent after", ask()[1])
    say("parent keeps its own", client._channel.current() is before)


def use_pools() -> None:
    """Let pools of forked processes ask, while the parent has asked and goes on to."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        found = pool.map(ask, range(8))
    say("pool", sorted({email for _, email in found}))
    say("pool is others", os.getpid() not in {pid for pid, _ in found})
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
        say("executor", sorted({email for _, email in executor.map(ask, range(8))}))


def use_loops() -> None:
    """Use one asyncio client in loops one after the other, at the same time, and across a fork that is too late."""
    say("loops one after the other", [asyncio.run(ask_aio()) for _ in range(3)])
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(ask_aio()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("loops at the same time", results)
    say("channels that are kept", len(aio_client._channel._opened))

    async def fork_too_late() -> tuple[str, str]:
        await ask_aio()

        def in_child() -> str:
            asyncio._set_running_loop(None)
            return asyncio.run(ask_aio())

        return in_fork(in_child), await ask_aio()

    say("fork too late", asyncio.run(fork_too_late()))


if __name__ == "__main__":
    use_forks()
    use_pools()
    use_loops()
