"""Envoy as `deploy/envoy/flowless-rest.yaml` configures it, in front of a real Flowless."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from flowless.domain.bridges import Scope
from tests.support.envoy import Envoy
from tests.support.flowless import Flowless
from tests.support.http_client import Answer, Headers, exchange
from tools.processes import ROOT, free_port

SHIPPED: Final = ROOT / "deploy" / "envoy"
SHIPPED_SECRET: Final = "/etc/envoy/envoy-bridge.secret"
JSON: Final = ("content-type", "application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running Envoy, and the Flowless behind it."""

    flowless: Flowless
    envoy: Envoy
    port: int
    secret_file: Path

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Sequence[tuple[str, str]] = (),
        *,
        source: str = "127.0.0.1",
    ) -> Answer:
        """Send a request with this as JSON, if there is something to send."""
        data = b"" if body is None else json.dumps(body).encode()
        return exchange(self.port, method, path, [JSON, *headers], data, source=source)

    def rest(self, method: str, path: str, body: Any = None, *, secret: str = "") -> Answer:
        """Call as a bridge, with every scope unless told otherwise."""
        return self.call(method, path, body, bearer(secret or self.flowless.client.secret))

    @property
    def logs(self) -> str:
        """All that Envoy and Flowless have logged."""
        return self.envoy.access_log.read_text() + self.envoy.log.read_text() + self.flowless.log_text


def bearer(secret: str) -> Headers:
    """The header that carries a credential."""
    return [("authorization", f"Bearer {secret}")]


@contextmanager
def running_gateway(
    directory: Path, flowless: Flowless, *, replace: dict[str, str] | None = None
) -> Iterator[Gateway]:
    """Start Envoy with the shipped configuration, in which only addresses, paths and `replace` are other.

    Its own bridge holds the scope `pubflow`.
    """
    port = free_port()
    secret_file = directory / "envoy-bridge.secret"
    secret_file.write_text(flowless.client.create_bridge(Scope.PUBFLOW)[1])
    source = directory / "envoy-bridge.yaml"
    source.write_text((SHIPPED / "envoy-bridge.yaml").read_text().replace(SHIPPED_SECRET, str(secret_file)))
    replaced = {
        "port_value: 8443": f"port_value: {port}",
        "port_value: 7600": f"port_value: {flowless.process.address.rpartition(':')[2]}",
        "/etc/envoy/trustlayer.binpb": str(SHIPPED / "trustlayer.binpb"),
        "/etc/envoy/envoy-bridge.yaml": str(source),
        **(replace or {}),
    }
    with Envoy(directory=directory, config="flowless-rest.yaml", replace=replaced, name=f"envoy-{port}") as envoy:
        yield Gateway(flowless=flowless, envoy=envoy, port=port, secret_file=secret_file)
