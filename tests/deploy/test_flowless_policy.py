"""Whatever values the chart is given, its pods keep to the policy, and its objects fit each other."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.manifests import DEPLOY, VALUES, Manifest, Pod, environment, pods, rendered
from tests.support.pod_policy import probe_problems, problems_of

CHART = DEPLOY / "charts" / "flowless"
ALL = pytest.mark.parametrize("values", sorted((VALUES / "flowless").glob("*.yaml")), ids=lambda path: path.stem)


def manifests_of(values: Path) -> tuple[Manifest, ...]:
    return rendered(CHART, values)


def only(manifests: tuple[Manifest, ...], kind: str, ending: str = "") -> Manifest:
    (found,) = (m for m in manifests if m["kind"] == kind and m["metadata"]["name"].endswith(ending or ""))
    return found


def all_of(manifests: tuple[Manifest, ...], kind: str) -> list[Manifest]:
    return [m for m in manifests if m["kind"] == kind]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def server(manifests: tuple[Manifest, ...]) -> Pod:
    (found,) = (pod for pod in pods(manifests) if pod.owner.startswith("Deployment/"))
    return found


def production() -> tuple[Manifest, ...]:
    return manifests_of(VALUES / "flowless" / "production.yaml")


@ALL
def test_every_pod_keeps_to_the_policy(values: Path) -> None:
    assert [problem for pod in pods(manifests_of(values)) for problem in problems_of(pod)] == []


def _root(pod: Pod) -> None:
    pod.spec["securityContext"]["runAsUser"] = 0


def _writable(pod: Pod) -> None:
    pod.spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = False


def _capability(pod: Pod) -> None:
    pod.spec["containers"][0]["securityContext"]["capabilities"]["add"] = ["NET_ADMIN"]


def _token(pod: Pod) -> None:
    del pod.spec["automountServiceAccountToken"]


def _host_path(pod: Pod) -> None:
    pod.spec["volumes"].append({"name": "host", "hostPath": {"path": "/"}})


def _latest(pod: Pod) -> None:
    pod.spec["containers"][0]["image"] = "registry.example:5000/flowless:latest"


def _untagged(pod: Pod) -> None:
    pod.spec["containers"][0]["image"] = "registry.example:5000/flowless"


def _sub_path(pod: Pod) -> None:
    pod.spec["containers"][0]["volumeMounts"][0]["subPath"] = "database-password"


def _secret_variable(pod: Pod) -> None:
    secret = {"secretKeyRef": {"name": "a", "key": "b"}}
    pod.spec["containers"][0]["env"].append({"name": "PGOPTIONS", "valueFrom": secret})


def _password(pod: Pod) -> None:
    pod.spec["containers"][0]["env"].append({"name": "FLOWLESS_REDIS_URL", "value": "redis://u:hunter2@cache/0"})


def _unlimited(pod: Pod) -> None:
    del pod.spec["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize(
    "spoil",
    [_root, _writable, _capability, _token, _host_path, _latest, _untagged, _sub_path, _secret_variable, _password,
     _unlimited],
)  # fmt: skip
def test_the_policy_finds_what_is_against_it(spoil: Callable[[Pod], None]) -> None:
    pod = copy.deepcopy(server(production()))
    spoil(pod)
    assert len(problems_of(pod)) == 1


@ALL
def test_the_server_has_probes_at_ports_that_it_listens_on(values: Path) -> None:
    container = server(manifests_of(values)).container("flowless")
    variables = environment(container)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert probe_problems(container) == []
    assert variables["FLOWLESS_LISTEN"] == f"0.0.0.0:{ports['grpc']}"
    assert variables["FLOWLESS_HEALTH_LISTEN"] == f"0.0.0.0:{ports['health']}"
    assert container["livenessProbe"]["grpc"] == {"port": ports["health"], "service": "liveness"}
    assert container["readinessProbe"]["grpc"] == {"port": ports["health"], "service": "readiness"}
    assert variables.get("FLOWLESS_METRICS_LISTEN") == (f"0.0.0.0:{ports['metrics']}" if "metrics" in ports else None)
    assert ("grpc-mtls" in ports) == ("FLOWLESS_MTLS_LISTEN" in variables)


@ALL
def test_a_rolling_update_takes_no_replica_away_before_another_is_ready(values: Path) -> None:
    spec = only(manifests_of(values), "Deployment")["spec"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert spec["strategy"]["rollingUpdate"]["maxSurge"] >= 1


@ALL
def test_a_replica_has_longer_to_end_than_its_settings_let_it_take(values: Path) -> None:
    pod = server(manifests_of(values))
    variables = environment(pod.container("flowless"))
    takes = float(variables["FLOWLESS_LAME_DUCK_SECONDS"]) + float(variables["FLOWLESS_DRAIN_SECONDS"])
    if "FLOWLESS_SMTP_URL" in variables:
        takes += float(variables.get("FLOWLESS_SMTP_TIMEOUT_SECONDS", 10))
    assert takes + 5 < pod.spec["terminationGracePeriodSeconds"] <= takes + 15


@ALL
def test_selectors_select_the_replicas_and_no_other_pod(values: Path) -> None:
    manifests = manifests_of(values)
    everything = {pod.owner: pod.metadata["labels"] for pod in pods(manifests)}
    deployment = only(manifests, "Deployment")
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [service["spec"]["selector"] for service in all_of(manifests, "Service")]
    selectors += [budget["spec"]["selector"]["matchLabels"] for budget in all_of(manifests, "PodDisruptionBudget")]
    spread = server(manifests).spec.get("topologySpreadConstraints", [])
    selectors += [constraint["labelSelector"]["matchLabels"] for constraint in spread]
    for selector in selectors:
        chosen = [owner for owner, labels in everything.items() if selects(selector, labels)]
        assert chosen == [f"Deployment/{deployment['metadata']['name']}"]


@ALL
def test_services_lead_to_ports_of_the_replicas(values: Path) -> None:
    manifests = manifests_of(values)
    names = {port["name"] for port in server(manifests).container("flowless")["ports"]}
    for service in all_of(manifests, "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        if service["spec"].get("clusterIP") == "None":
            numbers = {p["name"]: p["containerPort"] for p in server(manifests).container("flowless")["ports"]}
            assert all(port["port"] == numbers[port["targetPort"]] for port in service["spec"]["ports"])


@ALL
def test_a_node_can_always_be_drained_and_a_scaler_owns_the_number_of_replicas(values: Path) -> None:
    manifests = manifests_of(values)
    deployment = only(manifests, "Deployment")
    scalers = all_of(manifests, "HorizontalPodAutoscaler")
    assert ("replicas" in deployment["spec"]) == (not scalers)
    least = deployment["spec"].get("replicas")
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        assert 2 <= scaler["spec"]["minReplicas"] <= scaler["spec"]["maxReplicas"]
        assert server(manifests).container("flowless")["resources"]["requests"]["cpu"]
        least = scaler["spec"]["minReplicas"]
    for budget in all_of(manifests, "PodDisruptionBudget"):
        assert "minAvailable" not in budget["spec"]
        assert 1 <= budget["spec"]["maxUnavailable"] < least


@ALL
def test_the_network_policy_names_every_port_that_others_need_and_no_other(values: Path) -> None:
    manifests = manifests_of(values)
    policies = all_of(manifests, "NetworkPolicy")
    if not policies:
        assert values.stem == "mesh"
        return
    container = server(manifests).container("flowless")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    covered = set()
    for policy in policies:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        selector = policy["spec"]["podSelector"]
        for pod in pods(manifests):
            labels = pod.metadata["labels"]
            expressions = selector.get("matchExpressions", [])
            if selects(selector["matchLabels"], labels) and all(labels[e["key"]] in e["values"] for e in expressions):
                covered.add(pod.owner)
        assert all(rule.get("from") for rule in policy["spec"].get("ingress", []))
        assert all(rule["ports"] for rule in policy["spec"]["egress"])
    assert covered == {pod.owner for pod in pods(manifests)}
    (of_server,) = (policy for policy in policies if policy["spec"].get("ingress"))
    opened = {port["port"] for rule in of_server["spec"]["ingress"] for port in rule["ports"]}
    assert opened == {number for name, number in ports.items() if name != "health"}


def test_a_network_policy_without_named_clients_lets_nobody_in() -> None:
    manifests = manifests_of(VALUES / "flowless" / "minimal.yaml")
    (policy,) = (p for p in all_of(manifests, "NetworkPolicy") if p["spec"].get("ingress"))
    for rule in policy["spec"]["ingress"]:
        for peer in rule["from"]:
            assert peer.get("namespaceSelector", {}).get("matchLabels")


@ALL
def test_the_migration_needs_nothing_that_the_install_makes(values: Path) -> None:
    manifests = manifests_of(values)
    made = {m["metadata"]["name"] for m in manifests if m["kind"] in ("ServiceAccount", "ConfigMap", "Secret")}
    made |= {m["spec"]["secretName"] for m in all_of(manifests, "Certificate")}
    jobs = all_of(manifests, "Job")
    assert bool(jobs) == (values.stem != "mesh")
    for job in jobs:
        assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        spec = job["spec"]["template"]["spec"]
        assert spec["containers"][0]["command"] == ["flowless", "migrate"]
        assert spec.get("serviceAccountName") not in made
        used = {
            source["secret"]["name"]
            for volume in spec.get("volumes", [])
            for source in volume.get("projected", {}).get("sources", [])
        }
        used |= {volume["secret"]["secretName"] for volume in spec.get("volumes", []) if "secret" in volume}
        assert not used & made


def test_objects_of_other_projects_have_the_shape_that_those_ask_for() -> None:
    certificate = only(production(), "Certificate")
    service = next(s for s in all_of(production(), "Service") if not s["metadata"]["name"].endswith("-metrics"))
    assert certificate["apiVersion"] == "cert-manager.io/v1"
    assert certificate["spec"]["issuerRef"] == {
        "name": "company",
        "kind": "ClusterIssuer",
        "group": "cert-manager.io",
    }
    assert f"{service['metadata']['name']}.trust.svc.cluster.local" in certificate["spec"]["dnsNames"]
    tls = next(volume for volume in server(production()).spec["volumes"] if volume["name"] == "tls")
    assert certificate["spec"]["secretName"] == tls["secret"]["secretName"]

    scaled = manifests_of(VALUES / "flowless" / "autoscaling.yaml")
    monitor = only(scaled, "ServiceMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    services = [
        s
        for s in all_of(scaled, "Service")
        if selects(monitor["spec"]["selector"]["matchLabels"], s["metadata"]["labels"])
    ]
    assert len(services) == 1
    assert {e["port"] for e in monitor["spec"]["endpoints"]} == {p["name"] for p in services[0]["spec"]["ports"]}


def test_prometheus_finds_sidecars_by_a_port_that_they_have() -> None:
    monitor = only(manifests_of(VALUES / "flowless" / "autoscaling.yaml"), "PodMonitor")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["selector"] == {}
    assert monitor["spec"]["namespaceSelector"] == {"any": True}
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    component = (DEPLOY / "kustomize" / "bridge-sidecar" / "sidecar.yaml").read_text()
    library = (DEPLOY / "charts" / "bridge-sidecar" / "templates" / "_bridge-sidecar.tpl").read_text()
    for sidecar in (component, library):
        assert f"name: {endpoint['port']}, containerPort: 7691" in sidecar


def test_extra_labels_and_annotations_are_on_every_object_and_on_pods() -> None:
    for manifest in production():
        assert manifest["metadata"]["labels"]["team"] == "identity", manifest["kind"]
        assert manifest["metadata"]["annotations"]["example.org/owner"] == "identity", manifest["kind"]
    labels: dict[str, Any] = server(production()).metadata["labels"]
    assert labels["example.org/tier"] == "core"


def test_the_rules_and_dashboards_that_are_installed_are_those_of_the_repository() -> None:
    scaled = manifests_of(VALUES / "flowless" / "autoscaling.yaml")
    rule = only(scaled, "PrometheusRule")
    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert rule["spec"] == yaml.safe_load((DEPLOY / "prometheus" / "rules.yaml").read_text())
    assert {item["alert"] for group in rule["spec"]["groups"] for item in group["rules"] if "alert" in item}
    data = only(scaled, "ConfigMap", "-dashboards")["data"]
    ours = {path.name: json.loads(path.read_text()) for path in (DEPLOY / "grafana").glob("*.json")}
    assert len(ours) >= 2
    assert {name: json.loads(text) for name, text in data.items()} == ours
