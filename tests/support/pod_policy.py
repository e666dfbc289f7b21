"""What every pod of this project keeps to: the restricted Pod Security profile, and some rules of our own."""

import re
from typing import Any, Final

from tests.support.manifests import Pod

APP_SOCKET_DIRECTORY: Final = "/run/bridge-sidecar"
_SECRET_NAME = re.compile(r"(PASSWORD|SECRET|TOKEN|KEY|PEPPER)S?(_FILE)?$")
_SECRET_VALUE = re.compile(r"://[^/@\s]*:[^/@\s]+@|brdg_|BEGIN [A-Z ]*PRIVATE KEY")


def problems_of(pod: Pod) -> list[str]:
    """List what the pod does that it must not do, or leaves out."""
    found = [*_of_pod(pod)]
    volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
    for container in pod.containers:
        name = container["name"]
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        problems = [
            *_of_security_context(context),
            *_of_image(container["image"]),
            *_of_environment(container),
            *_of_resources(container),
            *_of_mounts(container, volumes),
        ]
        found += [f"{pod.owner} {name}: {problem}" for problem in problems]
    return found


def _of_pod(pod: Pod) -> list[str]:
    spec = pod.spec
    found = [
        f"{pod.owner}: {key} is set"
        for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")
        if spec.get(key)
    ]
    if spec.get("automountServiceAccountToken") is not False:
        found.append(f"{pod.owner}: a service account's token is mounted")
    for volume in spec.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= {"secret", "configMap", "emptyDir", "projected"}:
            found.append(f"{pod.owner}: volume {volume['name']} is {', '.join(kinds)}")
    return found


def _of_security_context(context: dict[str, Any]) -> list[str]:
    wanted: dict[str, Any] = {
        "runAsNonRoot": True,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    found = [f"{key} is {context.get(key)}" for key, value in wanted.items() if context.get(key) != value]
    if context.get("privileged"):
        found.append("is privileged")
    if not context.get("runAsUser") or not context.get("runAsGroup"):
        found.append("runs as root, or as whom the image says")
    return found


def _of_image(image: str) -> list[str]:
    if "@sha256:" in image:
        return []
    tag = image.rpartition("/")[2].partition(":")[2]
    return [] if tag and tag != "latest" else [f"image {image} names no version"]


def _of_environment(container: dict[str, Any]) -> list[str]:
    found = ["envFrom: nobody knows what is in it"] if container.get("envFrom") else []
    for variable in container.get("env", []):
        name, value = variable["name"], variable.get("value")
        if value is None:
            found.append(f"{name} comes from {variable.get('valueFrom')}")
        elif (_SECRET_NAME.search(name) and not value.startswith("/")) or _SECRET_VALUE.search(value):
            found.append(f"{name} may hold a secret")
    return found


def _of_resources(container: dict[str, Any]) -> list[str]:
    resources = container.get("resources", {})
    wanted = (("requests", "cpu"), ("requests", "memory"), ("limits", "memory"))
    return [f"no {kind}.{what}" for kind, what in wanted if not resources.get(kind, {}).get(what)]


def _of_mounts(container: dict[str, Any], volumes: dict[str, dict[str, Any]]) -> list[str]:
    found = []
    for mount in container.get("volumeMounts", []):
        path, volume = mount["mountPath"], volumes.get(mount["name"])
        if volume is None:
            found.append(f"mounts {mount['name']}, which is no volume of the pod")
        elif "emptyDir" in volume:
            if container["name"] != "bridge-sidecar" and mount["name"] == "bridge-sidecar-run":
                is_the_socket = path == APP_SOCKET_DIRECTORY and mount.get("subPath") == "bridge-sidecar"
                if not mount.get("readOnly") or not is_the_socket:
                    found.append("mounts more of the sidecar than its socket, or can write to it")
        elif "subPath" in mount or "subPathExpr" in mount:
            found.append(f"{path} is mounted with subPath, which never sees a new secret")
        elif not mount.get("readOnly"):
            found.append(f"{path} can be written to")
        if "secret" in (volume or {}) and path.rstrip("/").count("/") < 2:
            found.append(f"{path} is no directory of its own")
    return found


def probe_problems(container: dict[str, Any]) -> list[str]:
    """List which probes a container that serves lacks, or that lead to no port of it."""
    ports = {port["containerPort"] for port in container.get("ports", [])}
    found = []
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = container.get(name)
        if probe is None:
            found.append(f"no {name}")
        elif "grpc" in probe and probe["grpc"]["port"] not in ports:
            found.append(f"{name} asks at a port that is not the container's")
    return found
