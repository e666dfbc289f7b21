"""`make run`: both programs in the foreground on a fresh database, with a bridge, a user and a live session to try.

Ends, and removes everything that it made, on Ctrl-C, on SIGTERM, and when one of the programs ends by itself.
"""

import secrets
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc

from tools import terminal
from tools.demo import BROWSER, EMAIL, describe
from tools.processes import FlowlessProcess, ProcessError, SidecarProcess, exit_on_sigterm, temporary_directory
from trustlayer.v1 import identity_pb2, session_pb2
from trustlayer.v1.identity_pb2_grpc import IdentityServiceStub
from trustlayer.v1.session_pb2_grpc import SessionServiceStub

CALL_SECONDS: Final = 10.0

GUIDE: Final = """
{ready}

  user      {email}
  password  {password}
  socket    {socket}
  flowless  {address}

Try, in another terminal:

  # is this session valid? (on standard input: what stands in a command line, every user of the machine can see)
  echo {session_id} | .venv/bin/bridge-sidecar check - --socket {socket} --ip {client_ip}

  # how is the sidecar?
  .venv/bin/bridge-sidecar status --socket {socket}

  # as an app does it
.venv/bin/python - <<'PYTHON'
from trustlayer import Client

with Client("{socket}") as client:
    print(client.validate("{session_id}", client_ip="{client_ip}"))
PYTHON

  # the user's sessions; revoke one by its handle, then check again
  export FLOWLESS_DATABASE_URL={database_url}
  .venv/bin/flowless sessions list {user_id}
  .venv/bin/flowless sessions revoke {handle}

Ctrl-C ends both programs and removes the database. Logs:
"""


def register_and_log_in(socket: str, password: str) -> session_pb2.LoginResponse:
    """Make a user with a live session, through the sidecar."""
    with grpc.insecure_channel(socket) as channel:
        IdentityServiceStub(channel).RegisterUser(
            identity_pb2.RegisterUserRequest(email=EMAIL, password=password, name="Ada", roles=["reader"]),
            timeout=CALL_SECONDS,
        )
        return SessionServiceStub(channel).Login(
            session_pb2.LoginRequest(login=EMAIL, password=password, context=BROWSER, device_name="make run"),
            timeout=CALL_SECONDS,
        )


def serve(directory: Path) -> None:
    """Start both, print the guide, and stay until one of them ends. Raises `ProcessError` when that happens."""
    with ExitStack() as stack:
        flowless = stack.enter_context(FlowlessProcess(directory=directory, echo=sys.stdout))
        flowless.create_signing_keys()
        secret = flowless.create_bridge("run-sidecar").secret
        sidecar = stack.enter_context(
            SidecarProcess(directory=directory, upstream=flowless.address, secret=secret, echo=sys.stdout)
        )
        password = secrets.token_urlsafe(18)
        login = register_and_log_in(sidecar.address, password)
        print(
            GUIDE.format(
                ready=terminal.paint("Flowless and a sidecar are running.", terminal.GREEN),
                email=EMAIL,
                password=password,
                socket=sidecar.socket,
                address=flowless.address,
                session_id=login.session_id,
                client_ip=BROWSER.client_ip,
                database_url=flowless.database_url,
                user_id=login.session.user.id,
                handle=login.session.handle,
            ),
            flush=True,
        )
        while flowless.is_running and sidecar.is_running:
            time.sleep(0.2)
        ended = sidecar if flowless.is_running else flowless
        raise ProcessError(f"{ended.name} ended by itself")


def main() -> int:
    """Run until told to stop; return the exit code."""
    exit_on_sigterm()
    print("Starting Flowless and a sidecar in a temporary directory …\n", flush=True)
    with temporary_directory() as directory:
        try:
            serve(directory)
        except KeyboardInterrupt:
            print("\nBoth programs are stopped and their directory is removed.")
        except ProcessError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except grpc.RpcError as error:
            print(f"error: the demo user cannot be made: {describe(error)}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
