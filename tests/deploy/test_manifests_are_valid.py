"""The charts render with real helm, what they give is what Kubernetes takes, and bad values are refused."""

import shutil
import warnings
from pathlib import Path

import pytest

from tests.support.manifests import DEPLOY, VALUES, VERSIONS, Manifest, helm, rendered
from trust_core.version import __version__

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kubernetes_validate

CHART = DEPLOY / "charts" / "flowless"
ACCEPTED = sorted((VALUES / "flowless").glob("*.yaml"))
REFUSED = sorted((VALUES / "refused").glob("*.yaml"))
CUSTOM = {"Certificate", "ServiceMonitor", "PodMonitor", "PrometheusRule"}
"""Kinds of other projects, whose schemas are not in Kubernetes: their shape is looked at below."""


def check_against_kubernetes(manifests: tuple[Manifest, ...], version: str) -> None:
    """Hold every manifest of a kind of Kubernetes' own against its schema, which knows no other field."""
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version.rpartition(".")[0], strict=True)


@pytest.mark.parametrize("values", ACCEPTED, ids=lambda path: path.stem)
def test_helm_finds_nothing_to_complain_of(values: Path) -> None:
    for version in VERSIONS:
        done = helm("lint", "--strict", CHART, "--values", values, "--kube-version", version)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", ACCEPTED, ids=lambda path: path.stem)
def test_what_is_rendered_is_what_kubernetes_takes(values: Path, version: str) -> None:
    manifests = rendered(CHART, values, version)
    assert len(manifests) >= 2
    check_against_kubernetes(manifests, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_field_that_kubernetes_does_not_know_is_found(version: str) -> None:
    (deployment,) = (m for m in rendered(CHART, ACCEPTED[0], version) if m["kind"] == "Deployment")
    mistyped = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        check_against_kubernetes((mistyped,), version)


@pytest.mark.parametrize("values", REFUSED, ids=lambda path: path.stem)
def test_bad_values_are_refused_for_what_is_bad_in_them(values: Path) -> None:
    named = values.read_text().splitlines()[0].removeprefix("# refused: ")
    done = helm("template", "flowless", CHART, "--values", values, "--kube-version", VERSIONS[-1])
    assert done.returncode != 0
    assert "don't meet the specifications of the schema" in done.stderr
    assert named in done.stderr


def test_what_the_chart_gives_by_default_needs_a_database_and_tls() -> None:
    done = helm("template", "flowless", CHART, "--kube-version", VERSIONS[-1])
    assert done.returncode != 0
    assert "/database/url" in done.stderr
    assert "/tls" in done.stderr


def test_an_older_kubernetes_is_refused() -> None:
    done = helm("template", "flowless", CHART, "--values", ACCEPTED[0], "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert "kubeVersion" in done.stderr


@pytest.mark.parametrize("chart", ["flowless", "bridge-sidecar"])
def test_charts_name_the_version_of_the_code(chart: str) -> None:
    done = helm("show", "chart", DEPLOY / "charts" / chart)
    assert f"appVersion: {__version__}" in done.stdout.replace('"', "")


def test_notes_say_where_sidecars_find_flowless_and_warn_of_plaintext(tmp_path: Path) -> None:
    chart = tmp_path / "flowless"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "NOTES.txt").rename(chart / "notes")  # helm shows them only where there is a cluster
    text = '{{ tpl (.Files.Get "notes") . | quote }}'
    shown = f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: notes}}\ndata: {{text: {text}}}\n"
    (chart / "templates" / "notes.yaml").write_text(shown)

    def notes(values: str) -> str:
        manifests = rendered(chart, VALUES / "flowless" / values)
        return str(next(m["data"]["text"] for m in manifests if m["metadata"]["name"] == "notes"))

    assert "flowless.trust.svc.cluster.local:7600" in notes("minimal.yaml")
    assert "WARNING" not in notes("minimal.yaml")
    assert "WARNING: gRPC is plaintext" in notes("mesh.yaml")
    assert "flowless.trust.svc.cluster.local:443" in notes("mtls-only.yaml")
