"""The example's app, as its ConfigMap holds it, beside a real sidecar and a real Flowless."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.manifests import DEPLOY, built
from tests.support.system import PASSWORD, System, running_system
from trustlayer.v1 import session_pb2, types_pb2


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(tmp_path_factory.mktemp("s")) as system:
        yield system


@pytest.fixture(scope="module")
def shop(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the app out of the rendered ConfigMap."""
    data = next(m["data"] for m in built(DEPLOY / "examples" / "shop" / "kustomize") if "app.py" in m.get("data", {}))
    program = tmp_path_factory.mktemp("app") / "app.py"
    program.write_text(data["app.py"])
    variables = {**os.environ, "PORT": "0", "HOST": "127.0.0.1", "BRIDGE_SOCKET": str(system.sidecar.socket)}
    with subprocess.Popen([sys.executable, program], env=variables, stdout=subprocess.PIPE, text=True) as app:
        assert app.stdout is not None
        yield f"http://127.0.0.1:{app.stdout.readline().split()[-1]}"
        app.terminate()
        assert app.wait(30) == 0


def get(url: str, session_id: str = "") -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"cookie": f"session_id={session_id}"} if session_id else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_the_app_welcomes_who_is_logged_in_until_the_session_is_revoked(system: System, shop: str) -> None:
    context = types_pb2.RequestContext(client_ip="127.0.0.1")
    assert get(f"{shop}/healthz") == (200, "ok\n")
    assert get(shop)[0] == 401
    assert get(shop, "sess_nonsense")[0] in (400, 401)
    system.app.register("ada@example.org", roles=("reader",))
    request = session_pb2.LoginRequest(login="ada@example.org", password=PASSWORD, context=context)
    session_id = system.app.sessions.Login(request, timeout=60).session_id
    assert get(shop, session_id) == (200, "welcome, Ada\n")
    revision = system.app.sessions.Logout(session_pb2.LogoutRequest(session_id=session_id)).revision
    assert system.app.validate(session_id, min_revision=revision).HasField("denial")
    assert get(shop, session_id) == (401, "no: DENIAL_REASON_REVOKED\n")


def test_the_example_asks_at_the_default_socket() -> None:
    text = (Path(DEPLOY) / "examples" / "shop" / "kustomize" / "app.py").read_text()
    assert '"/run/bridge-sidecar/bridge.sock"' in text
