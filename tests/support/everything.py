"""Both programs with every metric that they have: metrics on, and Redis, mail, TLS, rules and a proxy's gate."""

import base64
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.support.certificates import Authority, PemFiles
from tests.support.metrics import Scrape
from tests.support.smtp import mail_server
from tests.support.system import App, prepared_flowless
from tools.processes import FlowlessProcess, SidecarProcess, free_port
from tools.redis_server import RedisServer


@dataclass(frozen=True, slots=True)
class Everything:
    """The running pair."""

    flowless: FlowlessProcess
    sidecar: SidecarProcess
    redis: RedisServer
    app: App
    secret: str
    authorities: bytes
    flowless_metrics: str
    sidecar_metrics: str
    forward_auth: int

    def scrape_flowless(self) -> Scrape:
        """Read Flowless' metrics."""
        return Scrape.of(self.flowless_metrics)

    def scrape_sidecar(self) -> Scrape:
        """Read the sidecar's metrics."""
        return Scrape.of(self.sidecar_metrics)

    @contextmanager
    def stranger(self) -> Iterator[grpc.Channel]:
        """Open a channel to Flowless with no credential."""
        with grpc.secure_channel(self.flowless.address, grpc.ssl_channel_credentials(self.authorities)) as channel:
            yield channel


_RULES = """
[[routes]]
name = "account"
match = ["GET /account/*"]
on_mismatch = "revoke"
"""


@contextmanager
def everything(directory: Path, **flowless_settings: str) -> Iterator[Everything]:
    """Start it all in the directory; wait for the first lease."""
    authority = Authority()
    files = PemFiles.of(directory, "tls")
    files.put(authority.server(), authority.pem)
    key_file = directory / "redis-key"
    key_file.touch(mode=0o600)
    key_file.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
    ports = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    forward_auth = free_port()
    config = directory / "sidecar.toml"
    config.write_text(_RULES)
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        mailbox = stack.enter_context(mail_server())
        environment = {
            "FLOWLESS_METRICS_LISTEN": ports[0],
            "FLOWLESS_REDIS_URL": redis.url,
            "FLOWLESS_REDIS_KEY_FILE": str(key_file),
            "FLOWLESS_SMTP_URL": f"smtp://127.0.0.1:{mailbox.port}",
            "FLOWLESS_LINK_URLS": '{"magic_link": "https://app.example/login?token={token}"}',
            "FLOWLESS_MAIL_FROM": "Trust <trust@example.org>",
            "FLOWLESS_TLS_CERT_FILE": str(files.certificate),
            "FLOWLESS_TLS_KEY_FILE": str(files.key),
            "FLOWLESS_PUBFLOW": "true",
            **{f"FLOWLESS_{name.upper()}": value for name, value in flowless_settings.items()},
        }
        flowless, secret = stack.enter_context(
            prepared_flowless(directory, listen=f"localhost:{free_port()}", environment=environment)
        )
        sidecar = SidecarProcess(
            directory=directory,
            upstream=flowless.address,
            secret=secret,
            environment={
                "BRIDGE_SIDECAR_CONFIG": str(config),
                "BRIDGE_SIDECAR_METRICS_LISTEN": ports[1],
                "BRIDGE_SIDECAR_UPSTREAM_CA_FILE": str(files.authorities),
                "BRIDGE_SIDECAR_EXT_AUTHZ": "true",
                "BRIDGE_SIDECAR_FORWARD_AUTH_LISTEN": f"127.0.0.1:{forward_auth}",
            },
        )
        stack.enter_context(sidecar)
        channel = stack.enter_context(grpc.insecure_channel(sidecar.address))
        app = App(channel)
        app.wait_for_lease()
        yield Everything(
            flowless=flowless,
            sidecar=sidecar,
            redis=redis,
            app=app,
            secret=secret,
            authorities=authority.pem,
            flowless_metrics=ports[0],
            sidecar_metrics=ports[1],
            forward_auth=forward_auth,
        )
