"""`make demo-web`: Flowless, a sidecar and the example app with its pages, until Ctrl-C.

Everything is on loopback and in a temporary directory, which is removed at the end: on Ctrl-C, on SIGTERM, and when
one of the programs ends by itself.
"""

import argparse
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tools import terminal
from tools.processes import FlowlessProcess, ProcessError, SidecarProcess, exit_on_sigterm, temporary_directory
from tools.web_app import ADMIN_ROLE, WebAppProcess
from trustlayer import CallFailed, Client
from trustlayer.v1.identity_pb2 import RegisterUserRequest

EMAIL: Final = "admin@example.org"
DEFAULT_PORT: Final = 8000

GUIDE: Final = """
{ready}

  address   {origin}/
  admin     {email}
  password  {password}

Try, in a browser on this machine:

  1. Register as somebody. A private window, or another browser, is a second device: log in there as the same.
  2. See both under "My devices". Log one out from the other, and click on in the one that was logged out.
  3. Open "Admin": it is for administrators. Log in as the admin above, and open it again.
  4. As admin, change the browser's user agent (in its tools for developers) and open "Admin" once more.

Ctrl-C ends everything. Logs:
"""


def usable_port(wanted: int) -> int | None:
    """Return the wanted port if nobody has it, else nothing."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return None
    return wanted


def serve(directory: Path, *, port: int) -> None:
    """Start all, print the guide, and stay until one of them ends. Raises `ProcessError` when that happens."""
    with ExitStack() as stack:
        flowless = stack.enter_context(FlowlessProcess(directory=directory, echo=sys.stdout))
        sidecar = stack.enter_context(
            SidecarProcess(
                directory=directory,
                upstream=flowless.address,
                secret=flowless.create_bridge("demo-web-sidecar").secret,
                echo=sys.stdout,
            )
        )
        password = secrets.token_urlsafe(18)
        with Client(str(sidecar.socket)) as client:
            client.identity.RegisterUser(
                RegisterUserRequest(email=EMAIL, password=password, name="Ada", roles=[ADMIN_ROLE])
            )
        app = stack.enter_context(
            WebAppProcess(directory=directory, sidecar=sidecar, port=usable_port(port), echo=sys.stdout)
        )
        ready = terminal.paint("The example app is running.", terminal.GREEN)
        print(GUIDE.format(ready=ready, origin=app.origin, email=EMAIL, password=password), flush=True)
        programs = (flowless, sidecar, app)
        while all(program.is_running for program in programs):
            time.sleep(0.2)
        ended = next(program for program in programs if not program.is_running)
        raise ProcessError(f"{ended.name} ended by itself")


def main(arguments: Sequence[str]) -> int:
    """Run until told to stop; return the exit code."""
    parser = argparse.ArgumentParser(prog="make demo-web", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="where browsers find it, if nobody else is there"
    )
    chosen = parser.parse_args(arguments)
    exit_on_sigterm()
    print("Starting Flowless, a sidecar and the example app in a temporary directory …\n", flush=True)
    with temporary_directory() as directory:
        try:
            serve(directory, port=chosen.port)
        except KeyboardInterrupt:
            print("\nAll programs are stopped and their directory is removed.")
        except (ProcessError, CallFailed) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
