"""Each way of installing has what its code imports, and nothing of the others."""

import re
import subprocess
import sys

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.long

_IMPORT_ONLY_FROM_LOCK = """
import importlib.metadata, re, sys

def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()

locked = {canonical(name) for name in sys.argv[1].split(",")}
owners = importlib.metadata.packages_distributions()

class OnlyLocked:
    def find_spec(self, name, path=None, target=None):
        of = {canonical(owner) for owner in owners.get(name.partition(".")[0], ())}
        if of and not of & ({"trustlayer", "trustlayer-programs"} | locked):
            raise ModuleNotFoundError(f"{name} is not in the lock")

sys.meta_path.insert(0, OnlyLocked())
for module in sys.argv[2:]:
    __import__(module)
"""


def _locked(name: str) -> str:
    return ",".join(
        re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==", (ROOT / "requirements" / f"{name}.txt").read_text())
    )


@pytest.mark.parametrize(
    ("lock", "modules"),
    [
        (
            "client",
            ["trustlayer.v1.session_pb2_grpc", "trustlayer.client", "trustlayer.aio", "trustlayer.grpc_server"],
        ),
        (
            "sidecar",
            [
                "bridge_sidecar.bootstrap",
                "bridge_sidecar.cli",
                "bridge_sidecar.cli_client",
                "bridge_sidecar.ext_authz",
                "bridge_sidecar.forward_auth",
            ],
        ),
        ("sidecar-metrics", ["bridge_sidecar.bootstrap", "bridge_sidecar.metrics"]),
        ("sidecar-tracing", ["bridge_sidecar.bootstrap", "trust_core.otel"]),
        ("server", ["flowless.cli", "flowless.bootstrap"]),
        ("server-tracing", ["flowless.serving", "trust_core.otel"]),
    ],
)
def test_code_imports_with_nothing_but_its_lock(lock: str, modules: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ONLY_FROM_LOCK, _locked(lock), *modules],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_dependency_outside_the_lock_would_be_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ONLY_FROM_LOCK, _locked("sidecar"), "flowless.cli"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "is not in the lock" in done.stderr


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("bridge_sidecar.bootstrap", ("opentelemetry", "trust_core.otel")),
        # The Redis client itself loads the bare interface of OpenTelemetry where it finds it.
        ("flowless.serving", ("opentelemetry.sdk.trace", "opentelemetry.proto", "trust_core.otel")),
    ],
)
def test_a_program_without_traces_loads_nothing_for_them(module: str, unwanted: tuple[str, ...]) -> None:
    code = f"import sys, {module}\nprint([name for name in sys.modules if name.startswith({unwanted})])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        # What the sidecar loads of it is as much as it was before apps had clients.
        ("trustlayer, trustlayer.v1.validator_pb2_grpc", ("trustlayer.client", "trustlayer.errors", "google.rpc")),
        (
            "trustlayer.client, trustlayer.aio, trustlayer.asgi, trustlayer.wsgi, trustlayer.grpc_server",
            ("fastapi", "starlette", "flask", "django", "werkzeug"),
        ),
    ],
)
def test_importing_the_client_imports_no_framework_and_the_generated_code_no_client(
    modules: str, unwanted: tuple[str, ...]
) -> None:
    code = f"import sys, {modules}\nprint([name for name in sys.modules if name.startswith({unwanted})])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_a_sidecar_that_no_proxy_asks_loads_nothing_for_proxies() -> None:
    code = (
        "import sys, bridge_sidecar.bootstrap, bridge_sidecar.cli\n"
        "print([name for name in sys.modules if name.partition('.')[0] in ('envoy', 'udpa', 'xds', 'h11')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_traces_can_be_made_though_another_package_holds_older_files_of_the_same_names() -> None:
    code = "import trust_core.otel, envoy.service.auth.v3.external_auth_pb2"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", ["Makefile", "deploy/images/bridge-sidecar.Dockerfile"])
def test_a_lock_is_installed_as_it_is_so_that_these_files_come_last(file: str) -> None:
    text = (ROOT / file).read_text().replace("\\\n", " ")
    installs = [line for line in re.findall(r"pip [^&\n]*--requirement [^&\n]*", text) if "build.txt" not in line]
    assert installs
    assert all("--no-deps" in line for line in installs)
