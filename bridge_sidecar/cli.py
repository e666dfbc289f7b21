"""The command line of the sidecar. argparse and late imports: the process has a memory budget."""

import argparse
import os
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from bridge_sidecar import healthcheck
from bridge_sidecar.config import CONFIG_VARIABLE, PREFIX, ConfigError, load
from trust_core.modes import ValidationMode
from trust_core.version import __version__


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    DENIED = 1
    USAGE = 2
    UNAVAILABLE = 3
    CONFIG = 4


_EXIT_CODES = """exit codes:
  0  done; for check: the session is ACTIVE; for healthcheck: healthy
  1  check: denied; routes test: no rule covers the request; healthcheck: not healthy;
     serve: stopped by a fault of its own
  2  usage: the command line, or a field that the sidecar refuses
  3  cannot know: the sidecar or Flowless cannot be reached
  4  configuration: a setting, the bridge secret or the socket cannot be used"""

_MAIN_EXAMPLES = """examples:
  bridge-sidecar serve --config /etc/bridge-sidecar.toml
  bridge-sidecar status
  printf %s "$SESSION_ID" | bridge-sidecar check - --ip 203.0.113.7 --json
"""

_SERVE_EXAMPLES = """Settings come from the TOML file, overlaid by variables (BRIDGE_SIDECAR_UPSTREAM,
BRIDGE_SIDECAR_SOCKET_PATH, ...). The bridge secret comes from bridge_secret_file, which is
read again when it changes, or from BRIDGE_SIDECAR_SECRET; never from the command line.

When the socket answers, one line is printed: bridge-sidecar listening on unix:/path
SIGTERM, SIGINT or SIGHUP drain and end it, a second one ends it at once.

examples:
  BRIDGE_SIDECAR_SECRET=... bridge-sidecar serve
  bridge-sidecar serve --config /etc/bridge-sidecar.toml
"""

_CHECK_EXAMPLES = """A session id on the command line is visible to every user of the machine: on shared
machines write `-` and pass it on standard input.

examples:
  printf %s "$SESSION_ID" | bridge-sidecar check - --ip 203.0.113.7
  bridge-sidecar check - --ip 203.0.113.7 --device "$FP" --mode advanced --json < id.txt
"""

_ROUTES_EXAMPLES = """examples:
  bridge-sidecar routes test GET /admin/users --config /etc/bridge-sidecar.toml
  bridge-sidecar routes test grpc shop.v1.Orders/Cancel --config /etc/bridge-sidecar.toml --json
"""


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="bridge-sidecar",
        description='Answers "is this session valid?" on a Unix socket beside the app.',
        epilog=f"{_MAIN_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=raw,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, help_text: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=f"{epilog}\n{_EXIT_CODES}",
            formatter_class=raw,
            allow_abbrev=False,
        )

    serve = add("serve", "run the sidecar", _SERVE_EXAMPLES)
    _add_config_option(serve)

    check = add("check", "validate one session through the socket", _CHECK_EXAMPLES)
    check.add_argument("session_id", metavar="SESSION_ID|-", help="`-` reads it from standard input (do that)")
    check.add_argument("--ip", default="", metavar="ADDR", help="client IP of the request")
    check.add_argument("--device", default="", metavar="FP", help="device fingerprint of the request")
    check.add_argument("--user-agent", default="", metavar="UA", help="User-Agent of the request")
    check.add_argument(
        "--mode", choices=[mode.name.lower() for mode in ValidationMode], help="default: the sidecar's"
    )
    check.add_argument(
        "--min-revision", type=_revision, default=0, metavar="N", help="take the log up to N into account"
    )
    which = check.add_mutually_exclusive_group()
    which.add_argument("--route", default="", metavar="NAME", help="take the rule of this name")
    which.add_argument(
        "--request", type=_request, default=("", ""), metavar="'METHOD /PATH'", help="take the rule that covers this"
    )
    _add_client_options(check)

    routes = add("routes", "ask the rules of a file", _ROUTES_EXAMPLES)
    asked = routes.add_subparsers(dest="asked", required=True, metavar="test")
    test = asked.add_parser(
        "test",
        help="show which rule covers a request, and why",
        description="Shows which rule covers a request, and why.",
        epilog=f"{_ROUTES_EXAMPLES}\n{_EXIT_CODES}",
        formatter_class=raw,
        allow_abbrev=False,
    )
    test.add_argument("method", metavar="METHOD|grpc")
    test.add_argument("path", metavar="/PATH|package.Service/Method")
    _add_config_option(test)
    test.add_argument("--json", action="store_true", help="one JSON object, for programs")

    _add_client_options(add("status", "show how the sidecar is", ""))

    healthcheck.add_options(
        add("healthcheck", "say by the exit code whether the sidecar is healthy", healthcheck.EXAMPLES)
    )
    return parser


def _add_config_option(parser: argparse.ArgumentParser) -> None:
    named = os.environ.get(CONFIG_VARIABLE)
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(named) if named else None,
        metavar="FILE",
        help=f"TOML file with settings and rules; default: {CONFIG_VARIABLE}",
    )


def _request(text: str) -> tuple[str, str]:
    method, _, path = text.partition(" ")
    if not method or not path:
        raise argparse.ArgumentTypeError("must be a method and a path, like 'GET /orders'")
    return method, path


def _add_client_options(parser: argparse.ArgumentParser) -> None:
    variable = f"{PREFIX}SOCKET_PATH"
    parser.add_argument(
        "--socket",
        default=os.environ.get(variable, healthcheck.DEFAULT_SOCKET),
        metavar="PATH",
        help=f"default: {variable}, else {healthcheck.DEFAULT_SOCKET}",
    )
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="default: 5")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 600:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 600")
    return seconds


def _revision(text: str) -> int:
    revision = int(text)
    if not -(2**63) <= revision < 2**63:  # what the message can carry; the sidecar says what it takes
        raise argparse.ArgumentTypeError("must be 0 or a revision of the log")
    return revision


_UNUSED = ("greenlet", "rich", "ssl")
"""Optional modules that structlog and asyncio load wherever they are installed, and that the sidecar never uses: its
TLS is grpc's own. Without them the idle process is about 10 MiB smaller. Only the metrics' library insists on ssl."""


def _serve(config_file: Path | None) -> Exit:
    try:
        config = load(config_file, os.environ)
    except ConfigError as error:
        print(f"bridge-sidecar: {error}", file=sys.stderr)
        return Exit.CONFIG
    for name in _UNUSED:
        if name != "ssl" or not config.metrics_listen:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None makes an import fail
    import asyncio  # noqa: PLC0415 - only this command needs it, and the others should start fast

    from bridge_sidecar import bootstrap  # noqa: PLC0415
    from bridge_sidecar.unix_server import SocketLostError  # noqa: PLC0415
    from trust_core import core_dumps, logs  # noqa: PLC0415
    from trust_core.stopping import end_as_first_process  # noqa: PLC0415
    from trust_core.unix_socket import SocketError  # noqa: PLC0415

    end_as_first_process()

    if not config.core_dumps:
        core_dumps.forbid()
    logs.configure(level=config.log_level, style=config.log_format)
    try:
        asyncio.run(bootstrap.serve(config, config_file=config_file, reload=lambda: load(config_file, os.environ)))
    except (ConfigError, SocketError) as error:
        print(f"bridge-sidecar: {error}", file=sys.stderr)
        return Exit.CONFIG
    except SocketLostError:
        print(f"bridge-sidecar: {config.socket_path} was removed or replaced; start again", file=sys.stderr)
        return Exit.DENIED
    except Exception as error:  # noqa: BLE001 - the last boundary: its text must not leave
        logs.get_logger("bridge-sidecar").error("stopped unexpectedly", **logs.describe_exception(error))
        return Exit.DENIED
    return Exit.OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = _parser().parse_args(argv)
    if arguments.command == "serve":
        return _serve(arguments.config)
    if arguments.command == "routes":
        from bridge_sidecar import cli_routes  # noqa: PLC0415

        return cli_routes.run(arguments)
    if arguments.command == "healthcheck":
        return healthcheck.run(arguments)
    from bridge_sidecar import cli_client  # noqa: PLC0415

    return cli_client.run(arguments)
