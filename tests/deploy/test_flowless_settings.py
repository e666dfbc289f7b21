"""What the chart renders is what Flowless' own loader takes, with the files that the volumes would hold.

A schema of Kubernetes cannot see a mistyped variable, nor a file that is mounted elsewhere than a setting looks.
"""

from pathlib import Path

import pytest

from flowless.cli.doctor import _settings
from flowless.config import ConfigError, Settings, load
from flowless.serving import tls_files
from tests.support.manifests import DEPLOY, VALUES, Kubelet, Pod, pods, rendered

CHART = DEPLOY / "charts" / "flowless"
ALL = pytest.mark.parametrize("values", sorted((VALUES / "flowless").glob("*.yaml")), ids=lambda path: path.stem)


def loaded(pod: Pod, root: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Load the settings as the program in the pod would; raises ConfigError."""
    container = pod.container("flowless")
    kubelet = Kubelet(root)
    kubelet.mount(pod, container)
    variables = kubelet.environment(container)
    finding = _settings(None, variables)
    assert finding.state == "ok", finding.finding
    with monkeypatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        settings = load()
    settings.check_files()
    if settings.tls_cert_file is not None:
        tls_files(settings).read()
    return settings


@ALL
def test_flowless_takes_the_settings_of_every_pod(
    values: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in pods(rendered(CHART, values)):
        settings = loaded(pod, tmp_path / pod.owner.replace("/", "-"), monkeypatch)
        assert settings.database_file is None
        if pod.owner.startswith("Deployment/"):
            assert not settings.is_local
            assert (settings.tls_cert_file is None) == (values.stem == "mesh")


def test_what_values_say_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = rendered(CHART, VALUES / "flowless" / "production.yaml")
    (pod,) = (pod for pod in pods(manifests) if pod.owner.startswith("Deployment/"))
    settings = loaded(pod, tmp_path, monkeypatch)
    assert settings.session_idle_seconds == 1800
    assert settings.max_message_bytes == 1_048_576
    assert settings.redis_timeout_seconds == 0.02
    assert settings.trust_token_purposes == {"door_code"}
    assert settings.link_urls == {"magic_link": "https://app.example.org/in?token={token}"}
    assert settings.database_url.endswith(
        f"sslmode=verify-full&sslrootcert={tmp_path}/etc/flowless/database-ca/ca.crt"
    )
    assert settings.lame_duck_seconds == 5
    assert settings.database_password() == settings.smtp_password() == "not a real one"


def test_every_secret_that_flowless_reads_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = rendered(CHART, VALUES / "flowless" / "production.yaml")
    (pod,) = (pod for pod in pods(manifests) if pod.owner.startswith("Deployment/"))
    settings = loaded(pod, tmp_path, monkeypatch)
    without = {"tls_client_ca_file"}  # in the values mtls
    files = {name for name in Settings.model_fields if name.endswith("_file")} - without
    assert {name for name in files if getattr(settings, name) is None} == set()


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ("secrets", "database_password_file"),
        ("common-passwords", "common_passwords_file"),
        ("mail-ca", "smtp_ca_file"),
    ],
)
def test_a_volume_that_is_not_mounted_is_found(
    lost: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifests = rendered(CHART, VALUES / "flowless" / "production.yaml")
    (pod,) = (pod for pod in pods(manifests) if pod.owner.startswith("Deployment/"))
    container = dict(pod.container("flowless"))
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != lost]
    with pytest.raises(ConfigError, match=problem):
        loaded(Pod(pod.owner, pod.metadata, {**pod.spec, "containers": [container]}), tmp_path, monkeypatch)
