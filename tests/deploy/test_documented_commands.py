"""What docs/operations/kubernetes.md tells people to type and to write is what the programs and the chart take."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bridge_sidecar import cli as sidecar
from flowless.cli import app
from tests.support.manifests import DEPLOY, VALUES, pods, rendered
from tests.support.pod_policy import problems_of
from tests.support.repository import ROOT

DOCUMENT = (ROOT / "docs" / "operations" / "kubernetes.md").read_text()
COMMANDS = sorted(set(re.findall(r"-- (flowless [^|\n]*?)(?: \\?\n|\s+#|$|\n)", DOCUMENT, re.MULTILINE)))


def test_the_document_has_commands() -> None:
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_and_its_options_exist(command: str) -> None:
    words = shlex.split(command.rstrip("\\"))[1:]
    options = {word for word in words if word.startswith("--")}
    path = list(itertools.takewhile(lambda word: not word.startswith("-"), words))[:2]
    shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0, shown.output
    assert all(option in shown.output for option in options)


def test_the_sidecars_commands_exist(capsys: pytest.CaptureFixture[str]) -> None:
    named = set(re.findall(r"`?bridge-sidecar (healthcheck|status)\b", DOCUMENT))
    assert named == {"healthcheck", "status"}
    for command in named:
        with pytest.raises(SystemExit) as ended:
            sidecar.main([command, "--help"])
        assert ended.value.code == 0
    capsys.readouterr()


def test_the_values_that_the_document_shows_make_pods_that_keep_to_the_policy(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(database:.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "values.yaml").write_text(text)
    manifests = rendered(DEPLOY / "charts" / "flowless", tmp_path / "values.yaml")
    assert [problem for pod in pods(manifests) for problem in problems_of(pod)] == []
    assert "FLOWLESS_SIGNING_KEY_FILE" in str(manifests)


def test_names_in_the_document_are_those_of_the_example_and_the_chart() -> None:
    toml = (DEPLOY / "examples" / "shop" / "kustomize" / "bridge-sidecar.toml").read_text()
    assert 'upstream = "flowless.trust.svc.cluster.local:7600"' in toml
    manifests = rendered(DEPLOY / "charts" / "flowless", VALUES / "flowless" / "minimal.yaml")
    assert "flowless" in {m["metadata"]["name"] for m in manifests if m["kind"] == "Service"}
    clients = yaml.safe_load((DEPLOY / "charts" / "flowless" / "values.yaml").read_text())["networkPolicy"]["clients"]
    ((label, value),) = clients[0]["namespaceSelector"]["matchLabels"].items()
    assert f"{label}={value}" in DOCUMENT
