"""Manifests as real helm and kustomize make them, and what a kubelet would make of a container in them."""

import base64
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.support.certificates import Authority
from tests.support.repository import ROOT

DEPLOY: Final = ROOT / "deploy"
VALUES: Final = ROOT / "tests" / "deploy" / "values"
VERSIONS: Final = ("1.29.0", "1.37.0")
"""Of Kubernetes: the oldest that the charts allow, and the newest whose schema is there."""

Manifest = dict[str, Any]


def program(name: str) -> Path:
    """Path of a program that `make deploy-tools` built."""
    return ROOT / ".venv" / "bin" / name


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run helm."""
    command = [str(program("helm")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@cache
def rendered(chart: Path, values: Path, version: str = VERSIONS[-1]) -> tuple[Manifest, ...]:
    """What `helm template` gives, hooks and tests included."""
    done = helm("template", "flowless", chart, "--namespace", "trust", "--values", values, "--kube-version", version)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


@cache
def built(directory: Path) -> tuple[Manifest, ...]:
    """What `kustomize build` gives."""
    command = [str(program("kustomize")), "build", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def with_dependencies(chart: Path, into: Path) -> Path:
    """Copy a chart, with the charts beside it that it depends on, and fetch those as their users would."""
    shutil.copytree(DEPLOY, into / "deploy")
    copied = into / chart.relative_to(ROOT)
    done = helm("dependency", "update", copied, "--skip-refresh")
    assert done.returncode == 0, done.stderr
    return copied


def documents(text: str) -> tuple[Manifest, ...]:
    """The documents of a YAML stream that say anything."""
    return tuple(document for document in yaml.safe_load_all(text) if document)


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest makes: who it belongs to, its metadata and its spec."""

    owner: str
    metadata: dict[str, Any]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All containers, those that start first included."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    def container(self, name: str) -> dict[str, Any]:
        """The container of that name."""
        return next(container for container in self.containers if container["name"] == name)


def pods(manifests: tuple[Manifest, ...]) -> Iterator[Pod]:
    """Every pod that the manifests make."""
    for manifest in manifests:
        owner = f"{manifest['kind']}/{manifest['metadata']['name']}"
        spec = manifest.get("spec", {})
        if manifest["kind"] == "Pod":
            yield Pod(owner, manifest["metadata"], spec)
        elif manifest["kind"] == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Pod(owner, template.get("metadata", {}), template["spec"])
        elif "template" in spec:
            yield Pod(owner, spec["template"].get("metadata", {}), spec["template"]["spec"])


def environment(container: dict[str, Any]) -> dict[str, str]:
    """Variables of a container. Each has a value: one that came from a Secret or a ConfigMap would have none."""
    return {variable["name"]: variable["value"] for variable in container.get("env", [])}


class Kubelet:
    """Puts what a container's volumes would hold below a directory, with content that fits each file's name.

    Only what a manifest names is there: a setting that names another file leads nowhere.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        authority = Authority()
        pair = authority.server()
        key = base64.b64encode(bytes(32)) + b"\n"
        self.contents: dict[str, bytes] = {
            "database-password": b"not a real one\n",
            "redis-password": b"not a real one\n",
            "smtp-password": b"not a real one\n",
            "redis-keys": key,
            "signing-keys": key,
            "pepper": b"1:" + key,
            "common-passwords": b"correct horse battery staple\n",
            "ca.crt": authority.pem,
            "tls.crt": pair.certificate,
            "tls.key": pair.key,
            "bridge-secret": b"not a real one\n",
            "bridge-sidecar.toml": b"",
            "magic_link.pt.txt": b"Entrar\n\n$link\n$expires\n",
        }

    def mount(self, pod: Pod, container: dict[str, Any]) -> None:
        """Make every file that the container would find."""
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            directory = self.root / mount["mountPath"].lstrip("/")
            directory.mkdir(parents=True, exist_ok=True)
            for name in _files_of(volumes[mount["name"]]):
                (directory / name).write_bytes(self.contents[name])
                (directory / name).chmod(0o600)

    def environment(self, container: dict[str, Any]) -> dict[str, str]:
        """Variables of the container, whose paths lead below the directory."""
        return {name: value.replace("/etc/", f"{self.root}/etc/") for name, value in environment(container).items()}


def _files_of(volume: dict[str, Any]) -> list[str]:
    if "projected" in volume:
        return [item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    source = volume.get("secret") or volume.get("configMap")
    if source is None:
        return []  # an emptyDir
    if "items" in source:
        return [item["path"] for item in source["items"]]
    return _WHOLE[volume["name"]]


_WHOLE: Final = {
    "tls": ["tls.crt", "tls.key"],
    "mail-templates": ["magic_link.pt.txt"],
    "bridge-sidecar-secret": ["bridge-secret"],
    "bridge-sidecar-config": ["bridge-sidecar.toml"],
    "bridge-sidecar-upstream-ca": ["ca.crt"],
    "bridge-sidecar-client-certificate": ["tls.crt", "tls.key"],
}
"""Keys of Secrets and ConfigMaps that are mounted whole: what the documents tell people to put there."""
