"""The sidecar, put into a Deployment by the Kustomize component and by the Helm library, as real tools do it."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bridge_sidecar.config
from bridge_sidecar.healthcheck import DEFAULT_SOCKET
from tests.deploy.test_manifests_are_valid import check_against_kubernetes
from tests.support.manifests import (
    DEPLOY,
    VALUES,
    VERSIONS,
    Kubelet,
    Manifest,
    Pod,
    built,
    environment,
    helm,
    pods,
    rendered,
    with_dependencies,
)
from tests.support.pod_policy import probe_problems, problems_of

CHART = DEPLOY / "examples" / "shop" / "chart"
KUSTOMIZATION = DEPLOY / "examples" / "shop" / "kustomize"
WAYS = ["kustomize", *sorted(path.stem for path in (VALUES / "shop").glob("*.yaml"))]
every_way = pytest.mark.parametrize("way", WAYS)
SIDECAR = "bridge-sidecar"


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's chart with its dependency fetched."""
    return with_dependencies(CHART, tmp_path_factory.mktemp("shop"))


@pytest.fixture
def manifests(way: str, chart: Path) -> tuple[Manifest, ...]:
    return built(KUSTOMIZATION) if way == "kustomize" else rendered(chart, VALUES / "shop" / f"{way}.yaml")


@pytest.fixture
def pod(manifests: tuple[Manifest, ...]) -> Pod:
    (found,) = pods(manifests)
    return found


def mounts_of(container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["name"]: mount for mount in container.get("volumeMounts", [])}


@every_way
@pytest.mark.parametrize("version", VERSIONS)
def test_what_comes_out_is_what_kubernetes_takes(manifests: tuple[Manifest, ...], version: str) -> None:
    assert {m["kind"] for m in manifests} == {"ConfigMap", "Deployment", "Service"}
    check_against_kubernetes(manifests, version)


@every_way
def test_the_pod_keeps_to_the_policy(pod: Pod) -> None:
    assert problems_of(pod) == []


@every_way
def test_the_sidecar_starts_before_the_app_and_stops_after_it(pod: Pod) -> None:
    sidecar = pod.container(SIDECAR)
    assert sidecar in pod.spec["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["startupProbe"]["exec"]["command"] == ["bridge-sidecar", "healthcheck"]
    assert probe_problems(sidecar) == []
    assert sidecar["livenessProbe"]["exec"]["command"] == ["bridge-sidecar", "healthcheck", "--liveness"]
    assert sidecar["readinessProbe"]["exec"]["command"] == ["bridge-sidecar", "healthcheck"]


@every_way
def test_no_other_pod_can_keep_the_kubelet_from_the_sidecar(pod: Pod) -> None:
    assert "BRIDGE_SIDECAR_HEALTH_LISTEN" not in environment(pod.container(SIDECAR))


@every_way
def test_the_socket_lies_in_memory_and_the_app_cannot_write_beside_it(pod: Pod) -> None:
    volume = next(volume for volume in pod.spec["volumes"] if volume["name"] == "bridge-sidecar-run")
    assert volume["emptyDir"]["medium"] == "Memory"
    socket = Path(DEFAULT_SOCKET)
    of_sidecar = mounts_of(pod.container(SIDECAR))["bridge-sidecar-run"]
    assert Path(of_sidecar["mountPath"]) == socket.parent.parent
    assert "BRIDGE_SIDECAR_SOCKET_PATH" not in environment(pod.container(SIDECAR))
    for container in pod.spec["containers"]:
        mount = mounts_of(container)["bridge-sidecar-run"]
        assert Path(mount["mountPath"]) == socket.parent
        assert mount["subPath"] == socket.parent.name
        assert mount["readOnly"] is True


@every_way
def test_socket_and_secret_are_reached_by_a_group_and_only_the_sidecar_has_the_secret(pod: Pod) -> None:
    assert pod.spec["securityContext"]["fsGroup"]
    users = {
        container["name"]: {**pod.spec["securityContext"], **container["securityContext"]}["runAsUser"]
        for container in pod.containers
    }
    assert len(set(users.values())) == len(users)
    for container in pod.spec["containers"]:
        assert set(mounts_of(container)) == {"bridge-sidecar-run", "app"}
    secrets = [volume for volume in pod.spec["volumes"] if "secret" in volume]
    assert {volume["secret"]["defaultMode"] for volume in secrets} == {0o440}


@every_way
def test_the_sidecar_takes_its_settings(way: str, pod: Pod, manifests: tuple[Manifest, ...], tmp_path: Path) -> None:
    config = loaded(pod, manifests, tmp_path)
    assert config.upstream == "flowless.trust.svc.cluster.local:7600"
    assert config.bridge_secret_file == str(tmp_path / "etc/bridge-sidecar/secret/bridge-secret")
    assert (config.upstream_ca_file is None) == config.insecure_upstream == (way == "mesh")
    assert (config.upstream_cert_file is not None) == (way == "mtls")
    assert [rule.name for rule in config.routes] == ["shop"]
    ports = {port["name"]: port["containerPort"] for port in pod.container(SIDECAR).get("ports", [])}
    assert config.metrics_listen == (f"0.0.0.0:{ports['sidecar-metrics']}" if "sidecar-metrics" in ports else "")


def loaded(pod: Pod, manifests: tuple[Manifest, ...], root: Path) -> bridge_sidecar.config.SidecarConfig:
    """Load the settings as the sidecar in the pod would, with the rules of the ConfigMap that it mounts."""
    container = pod.container(SIDECAR)
    kubelet = Kubelet(root)
    name = next(v["configMap"]["name"] for v in pod.spec["volumes"] if v["name"] == "bridge-sidecar-config")
    (rules,) = (m["data"] for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"] == name)
    text = rules["bridge-sidecar.toml"].replace('"/etc/', f'"{root}/etc/')
    kubelet.contents["bridge-sidecar.toml"] = text.encode()
    kubelet.mount(pod, container)
    variables = kubelet.environment(container)
    assert Path(variables["BRIDGE_SIDECAR_BRIDGE_SECRET_FILE"]).is_file()
    return bridge_sidecar.config.load(Path(variables["BRIDGE_SIDECAR_CONFIG"]), variables)


@every_way
def test_a_mistyped_variable_is_found(pod: Pod, manifests: tuple[Manifest, ...], tmp_path: Path) -> None:
    spoilt = Pod(pod.owner, pod.metadata, copy.deepcopy(pod.spec))
    spoilt.container(SIDECAR)["env"].append({"name": "BRIDGE_SIDECAR_HELTH_LISTEN", "value": "0.0.0.0:7681"})
    with pytest.raises(bridge_sidecar.config.ConfigError, match="HELTH"):
        loaded(spoilt, manifests, tmp_path)


def _writable(mount: dict[str, Any]) -> None:
    del mount["readOnly"]


def _whole(mount: dict[str, Any]) -> None:
    del mount["subPath"]


def _elsewhere(mount: dict[str, Any]) -> None:
    mount["mountPath"] = "/run"


@every_way
@pytest.mark.parametrize("spoil", [_writable, _whole, _elsewhere])
def test_the_policy_finds_an_app_that_could_replace_the_socket(
    pod: Pod, spoil: Callable[[dict[str, Any]], None]
) -> None:
    spoilt = Pod(pod.owner, pod.metadata, copy.deepcopy(pod.spec))
    spoil(mounts_of(spoilt.spec["containers"][0])["bridge-sidecar-run"])
    assert len(problems_of(spoilt)) == 1


@every_way
def test_flowless_network_policy_lets_the_pod_in(pod: Pod) -> None:
    (policy,) = (
        manifest
        for manifest in rendered(DEPLOY / "charts" / "flowless", VALUES / "flowless" / "minimal.yaml")
        if manifest["kind"] == "NetworkPolicy" and manifest["spec"].get("ingress")
    )
    peer = policy["spec"]["ingress"][0]["from"][0]
    assert peer["podSelector"]["matchLabels"].items() <= pod.metadata["labels"].items()


def overlay(into: Path, deployments: str, **more: Any) -> tuple[Manifest, ...]:
    """Build a kustomization of somebody's own with the component."""
    shutil.copytree(DEPLOY / "kustomize", into / "kustomize")
    own = into / "own"
    own.mkdir()
    (own / "deployments.yaml").write_text(deployments)
    kustomization = {"resources": ["deployments.yaml"], "components": ["../kustomize/bridge-sidecar"], **more}
    (own / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return built(own)


_OWN = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME, annotations: ANNOTATIONS}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      securityContext: {fsGroup: 4711}
      initContainers: [{name: prepare, image: "prepare:1"}]
      containers:
        - {name: web, image: "web:1"}
        - {name: proxy, image: "proxy:1", volumeMounts: [{name: data, mountPath: /data}]}
      volumes: [{name: data, emptyDir: {}}]
"""


def test_every_container_of_a_deployment_that_asks_gets_the_socket_and_no_other_deployment_changes(
    tmp_path: Path,
) -> None:
    with_sidecar = _OWN.replace("NAME", "asks").replace("ANNOTATIONS", "{trustlayer/bridge-sidecar: add}")
    without = _OWN.replace("NAME", "other").replace("ANNOTATIONS", "{}")
    found = {m["metadata"]["name"]: m for m in overlay(tmp_path, f"{with_sidecar}---{without}")}
    assert set(found) == {"asks", "other"}
    assert "bridge-sidecar" not in str(found["other"])
    spec = found["asks"]["spec"]["template"]["spec"]
    names = [container["name"] for container in spec["initContainers"]]
    assert sorted(names) == [SIDECAR, "prepare"]
    for container in spec["containers"]:
        assert mounts_of(container)["bridge-sidecar-run"]["readOnly"] is True
    assert set(mounts_of(spec["containers"][1])) == {"data", "bridge-sidecar-run"}
    assert {volume["name"] for volume in spec["volumes"]} >= {"data", "bridge-sidecar-run"}
    check_against_kubernetes(tuple(found.values()), VERSIONS[0])


def test_a_kustomization_keeps_a_group_of_its_own_with_a_patch(tmp_path: Path) -> None:
    asks = _OWN.replace("NAME", "asks").replace("ANNOTATIONS", "{trustlayer/bridge-sidecar: add}")
    patch = [{"op": "replace", "path": "/spec/template/spec/securityContext/fsGroup", "value": 4711}]
    (deployment,) = overlay(
        tmp_path, asks, patches=[{"target": {"kind": "Deployment"}, "patch": yaml.safe_dump(patch)}]
    )
    assert deployment["spec"]["template"]["spec"]["securityContext"]["fsGroup"] == 4711


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("bridgeSidecar: {upstream: ''}", "upstream"),
        ("bridgeSidecar: {upstreamCa: {configMap: ''}}", "upstreamCa"),
        ("bridgeSidecar: {bridgeSecret: {name: ''}}", "bridgeSecret"),
        ("bridgeSidecar: {image: {tag: latest}}", "tag"),
        ("bridgeSidecar: {upstrem: 'flowless:7600'}", "upstrem"),
        ("bridgeSidecar: {upstream: 'https://flowless:7600'}", "upstream"),
    ],
)
def test_the_library_refuses_what_cannot_work(chart: Path, values: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(values)
    done = helm("template", "shop", chart, "--values", tmp_path / "values.yaml", "--kube-version", VERSIONS[-1])
    assert done.returncode != 0
    assert problem in done.stderr


def test_the_component_and_the_library_make_the_same_sidecar(chart: Path) -> None:
    (one,) = pods(built(KUSTOMIZATION))
    (other,) = pods(rendered(chart, VALUES / "shop" / "tls.yaml"))
    said_elsewhere = ("env", "volumeMounts")  # in the component, what differs between apps stands in a file
    first, second = (
        {key: value for key, value in pod.container(SIDECAR).items() if key not in said_elsewhere}
        for pod in (one, other)
    )
    assert first == second


def test_the_example_chart_is_clean(chart: Path) -> None:
    done = helm("lint", "--strict", chart, "--values", VALUES / "shop" / "tls.yaml", "--kube-version", VERSIONS[0])
    assert done.returncode == 0, done.stdout + done.stderr
