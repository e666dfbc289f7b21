"""`bridge-sidecar healthcheck`: the exec probe, which an orchestrator runs every few seconds beside every app.

So it loads neither gRPC nor protobuf nor the settings, which together cost many times what the answer does. It
speaks the few frames of HTTP/2 (RFC 9113) that one `grpc.health.v1.Health/Check` needs, on the socket that the app
uses: what it finds is what the app would find.
"""

import argparse
import json
import os
import socket
import struct
import sys
import time
from typing import Final

SOCKET_VARIABLE: Final = "BRIDGE_SIDECAR_SOCKET_PATH"
DEFAULT_SOCKET: Final = "/run/bridge-sidecar/bridge.sock"
HEALTHY: Final = 0
NOT_HEALTHY: Final = 1

EXAMPLES: Final = """Healthy means: the socket answers, a lease was held once, and the sidecar does not drain.
From then on it stays healthy while Flowless is away: to fail closed is an answer. `bridge-sidecar status` says
whether the lease is held now. With --liveness any answer on the socket will do.

examples:
  startupProbe:   exec: command: [bridge-sidecar, healthcheck]
  readinessProbe: exec: command: [bridge-sidecar, healthcheck]
  livenessProbe:  exec: command: [bridge-sidecar, healthcheck, --liveness]

exit codes: 0 healthy, 1 not healthy, 2 usage
"""

_DATA, _HEADERS, _RESET, _SETTINGS, _GOAWAY = 0, 1, 3, 4, 7
_END_STREAM, _END_HEADERS = 1, 4
_STREAM: Final = 1
_MAX_FRAME_BYTES: Final = 16_384
_SERVING: Final = b"\x00\x00\x00\x00\x02\x08\x01"
"""A message of gRPC: not compressed, two bytes, `HealthCheckResponse.status` = SERVING."""


class _NoAnswerError(Exception):
    """Says why."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--liveness", action="store_true", help="any answer on the socket will do")
    parser.add_argument(
        "--socket",
        default=os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET),
        metavar="PATH",
        help=f"default: {SOCKET_VARIABLE}, else {DEFAULT_SOCKET}",
    )
    parser.add_argument("--timeout", type=_seconds, default=5.0, metavar="SECONDS", help="for all of it; default: 5")
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 600:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 600")
    return seconds


def main(arguments: list[str]) -> int:
    """Run the command with the arguments that follow its name."""
    parser = argparse.ArgumentParser(
        prog="bridge-sidecar healthcheck",
        description="Says by the exit code whether the sidecar is healthy.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(parser)
    return run(parser.parse_args(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Ask, say what was found, return the exit code."""
    try:
        serving = _check(arguments.socket, ends=time.monotonic() + arguments.timeout)
    except (OSError, _NoAnswerError) as error:
        healthy, said = False, str(error) if isinstance(error, _NoAnswerError) else _what_failed(error)
    else:
        healthy = serving or arguments.liveness
        said = "it answers" if healthy else "no lease was held yet, or it drains"
    if arguments.json:
        print(json.dumps({"healthy": healthy, "why": said}))
    else:
        print(f"{'healthy' if healthy else 'not healthy'}: {said}", file=sys.stdout if healthy else sys.stderr)
    return HEALTHY if healthy else NOT_HEALTHY


def _what_failed(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"no sidecar answers: {error.strerror or error}"


def _check(path: str, *, ends: float) -> bool:
    """Ask for the server as a whole. Raises OSError or `_NoAnswerError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _hurry(connection, ends)
        connection.connect(path)
        connection.sendall(_question(max(1, round((ends - time.monotonic()) * 1_000))))
        message = b""
        while True:
            kind, flags, stream, payload = _frame(connection, ends)
            if kind == _GOAWAY or (kind == _RESET and stream == _STREAM):
                raise _NoAnswerError("it ends, or takes no more calls")
            if stream != _STREAM:
                continue
            if kind == _DATA:
                message += payload
            if (kind == _DATA and len(message) >= len(_SERVING)) or flags & _END_STREAM:
                break
    if not message:
        raise _NoAnswerError("it refuses the call: too many are in flight, or it is not a sidecar")
    return message == _SERVING


def _question(timeout_ms: int) -> bytes:
    # HPACK (RFC 7541): indexed fields, then literals that nobody keeps.
    headers = b"".join(
        (
            b"\x83\x86",  # :method POST, :scheme http
            b"\x04" + _text(b"/grpc.health.v1.Health/Check"),  # :path
            b"\x01" + _text(b"localhost"),  # :authority
            b"\x00" + _text(b"content-type") + _text(b"application/grpc"),
            b"\x00" + _text(b"te") + _text(b"trailers"),
            b"\x00" + _text(b"grpc-timeout") + _text(b"%dm" % timeout_ms),
        )
    )
    return b"".join(
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _packed(_SETTINGS, 0, 0, b""),
            _packed(_HEADERS, _END_HEADERS, _STREAM, headers),
            _packed(_DATA, _END_STREAM, _STREAM, b"\x00\x00\x00\x00\x00"),  # an empty HealthCheckRequest
        )
    )


def _text(text: bytes) -> bytes:
    return bytes((len(text),)) + text  # all are shorter than 127 bytes


def _packed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBI", len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _frame(connection: socket.socket, ends: float) -> tuple[int, int, int, bytes]:
    high, low, kind, flags, stream = struct.unpack(">HBBBI", _read(connection, 9, ends))
    length = high << 8 | low
    if length > _MAX_FRAME_BYTES:
        raise _NoAnswerError("what answers is not a sidecar")
    return kind, flags, stream & 0x7FFF_FFFF, _read(connection, length, ends)


def _read(connection: socket.socket, count: int, ends: float) -> bytes:
    data = b""
    while len(data) < count:
        _hurry(connection, ends)
        more = connection.recv(count - len(data))
        if not more:
            raise _NoAnswerError("the connection was closed before an answer came")
        data += more
    return data


def _hurry(connection: socket.socket, ends: float) -> None:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)
