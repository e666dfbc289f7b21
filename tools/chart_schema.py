"""Write `values.schema.json` of the charts: what their values may be, and nothing else.

Flowless' settings come from its code, with their bounds, so that a typing error in `settings:` is refused when the
chart is rendered. `--check` writes nothing and fails on a difference.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from flowless.config import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
CHARTS: Final = ROOT / "deploy" / "charts"
MANAGED: Final = frozenset({
    "database_url", "database_password_file", "redis_url", "redis_password_file", "redis_key_file", "listen",
    "workers",
    "tls_cert_file", "tls_key_file", "tls_client_ca_file", "mtls_listen", "insecure_listen", "signing_key_file",
    "pepper_file", "smtp_url", "smtp_password_file", "smtp_ca_file", "mail_from", "mail_templates_dir", "link_urls",
    "common_passwords_file", "metrics_listen", "health_listen",
})  # fmt: skip
"""Settings that other values of the chart decide."""

DRAFT: Final = "http://json-schema.org/draft-07/schema#"
Schema = dict[str, Any]
TEXT: Final[Schema] = {"type": "string"}
YES_NO: Final[Schema] = {"type": "boolean"}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
ANY_OBJECT: Final[Schema] = {"type": "object"}
OBJECTS: Final[Schema] = {"type": "array", "items": ANY_OBJECT}
NAME: Final[Schema] = {"type": "string", "pattern": "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$", "maxLength": 253}
GIVEN_NAME: Final[Schema] = {**NAME, "minLength": 1}
KEY: Final[Schema] = {"type": "string", "pattern": "^[-._a-zA-Z0-9]+$"}
DURATION: Final[Schema] = {"type": "string", "pattern": "^([0-9]+(h|m|s))+$"}
# A tag that moves is not one: two replicas would run different programs.
TAG: Final[Schema] = {"type": "string", "pattern": "^[\\w.-]*$", "not": {"const": "latest"}}


def whole(low: int, high: int) -> Schema:
    """Say that it is a whole number within bounds."""
    return {"type": "integer", "minimum": low, "maximum": high}


def one_of(*texts: str) -> Schema:
    """Say that it is one of these texts."""
    return {"enum": list(texts)}


def obj(*required: str, **properties: Schema) -> Schema:
    """Say that it is an object with these properties and no others."""
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": list(required)} if required else found


IMAGE: Final = obj(
    repository={"type": "string", "minLength": 1},
    tag=TAG,
    digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    pullPolicy=one_of("Always", "IfNotPresent", "Never"),
)
SECRET_KEY: Final = obj(name=NAME, key=KEY)
CAS: Final = obj(configMap=NAME, secret=NAME, key=KEY) | {
    "not": {
        "properties": {"configMap": {"minLength": 1}, "secret": {"minLength": 1}},
        "required": ["configMap", "secret"],
    }
}
PROBE: Final = obj(
    periodSeconds=whole(1, 300),
    timeoutSeconds=whole(1, 60),
    failureThreshold=whole(1, 600),
    successThreshold=whole(1, 1),
)
QUANTITIES: Final[Schema] = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
RESOURCES: Final = obj(
    "requests",
    "limits",
    requests=QUANTITIES | {"required": ["cpu", "memory"]},
    limits=QUANTITIES | {"required": ["memory"]},
)
PORTS: Final[Schema] = {"type": "array", "items": whole(1, 65_535), "minItems": 1}
EGRESS: Final = obj("to", "ports", to=OBJECTS, ports=PORTS)


def url(schemes: str) -> Schema:
    """Say that it is an address without a password, which would stand in an environment variable."""
    return {
        "type": "string",
        "pattern": f"^(({schemes})://([^:@/?#]*@)?[^@]*)?$",
        "not": {"pattern": "[?&](ssl)?password="},
    }


def settings() -> Schema:
    """Flowless' settings that no other value decides, as its code checks them."""
    known = Settings.model_json_schema()["properties"]
    kept = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "items", "description",
            "additionalProperties", "uniqueItems")  # fmt: skip
    properties = {}
    for name in sorted(known.keys() - MANAGED):
        found = known[name]
        found |= next((choice for choice in found.get("anyOf", ()) if choice.get("type") != "null"), {})
        properties[name] = {key: found[key] for key in kept if key in found}
    return obj(**properties)


def named(path: str) -> Schema:
    """Hold where the value at the path is a text that is not empty."""
    first, _, rest = path.partition(".")
    inner = named(rest) if rest else {"type": "string", "minLength": 1}
    return {"properties": {first: inner}, "required": [first]}


def on(path: str) -> Schema:
    """Hold where the value at the path is true."""
    first, _, rest = path.partition(".")
    return {"properties": {first: on(rest) if rest else {"const": True}}, "required": [first]}


def flowless() -> Schema:
    """Values of the chart flowless."""
    tls = obj(
        secret=NAME,
        certManager=obj(
            enabled=YES_NO,
            issuerRef=obj(name=GIVEN_NAME, kind=one_of("Issuer", "ClusterIssuer"), group=TEXT),
            duration=DURATION,
            renewBefore=DURATION,
            extraDnsNames={"type": "array", "items": {"type": "string", "minLength": 1}},
        )
        | {"if": on("enabled"), "then": {"properties": {"issuerRef": {"required": ["name"]}}}},
        insecure=YES_NO,
        clientCa=CAS,
        mtlsPort={"oneOf": [{"const": 0}, {**whole(1_024, 65_535), "not": {"enum": [7600, 7680]}}]},
    ) | {
        "oneOf": [named("secret"), on("certManager.enabled"), on("insecure")],
        "if": {"properties": {"mtlsPort": {"type": "integer", "minimum": 1}}, "required": ["mtlsPort"]},
        "then": {"anyOf": [named("clientCa.configMap"), named("clientCa.secret")]},
    }
    properties = obj(
        "database",
        "tls",
        nameOverride=NAME,
        fullnameOverride=NAME,
        image=IMAGE,
        imagePullSecrets={"type": "array", "items": obj("name", name=GIVEN_NAME)},
        replicas=whole(1, 100),
        extraLabels=TEXTS,
        extraAnnotations=TEXTS,
        podLabels=TEXTS,
        podAnnotations=TEXTS,
        database=obj("url", url=url("postgresql") | {"minLength": 1}, passwordSecret=SECRET_KEY, ca=CAS),
        redis=obj(url=url("rediss?(\\+(sentinel|cluster))?"), passwordSecret=SECRET_KEY, sealingKeySecret=SECRET_KEY)
        | {"if": named("url"), "then": named("sealingKeySecret.name")},
        signingKeySecret=SECRET_KEY,
        pepperSecret=SECRET_KEY,
        mail=obj(
            url=url("smtps|smtp\\+starttls"),
            **{"from": TEXT},
            passwordSecret=SECRET_KEY,
            ca=CAS,
            linkUrls=TEXTS,
            templatesConfigMap=NAME,
        )
        | {"if": named("url"), "then": named("from")},
        commonPasswords=obj(configMap=NAME, key=KEY),
        systemCas=CAS,
        tls=tls,
        settings=settings(),
        extraEnv=TEXTS
        | {"propertyNames": {"pattern": "^[A-Z][A-Z0-9_]*$", "not": {"pattern": "^FLOWLESS_|PASSWORD|SECRET|TOKEN"}}},
        service=obj(headless=YES_NO, port=whole(1, 65_535), annotations=TEXTS),
        serviceAccount=obj(name=NAME, create=YES_NO, annotations=TEXTS),
        migration=obj(
            enabled=YES_NO, backoffLimit=whole(0, 20), activeDeadlineSeconds=whole(10, 86_400), resources=RESOURCES
        ),
        housekeeping=obj(cronJob=YES_NO, schedule={"type": "string", "minLength": 9}),
        resources=RESOURCES,
        probes=obj(startup=PROBE, liveness=PROBE, readiness=PROBE),
        autoscaling=obj(
            enabled=YES_NO,
            minReplicas=whole(2, 100),
            maxReplicas=whole(2, 100),
            targetCpuUtilizationPercentage=whole(10, 100),
            scaleDownStabilizationSeconds=whole(0, 3_600),
        ),
        podDisruptionBudget=obj(enabled=YES_NO, maxUnavailable=whole(1, 50)),
        topologySpread=obj(enabled=YES_NO, whenUnsatisfiable=one_of("ScheduleAnyway", "DoNotSchedule")),
        nodeSelector=TEXTS,
        tolerations=OBJECTS,
        affinity=ANY_OBJECT,
        priorityClassName=NAME,
        networkPolicy=obj(
            enabled=YES_NO,
            clients=OBJECTS,
            prometheus=OBJECTS,
            egress=obj(dns=EGRESS, database=EGRESS, redis=EGRESS, mail=EGRESS, extra=OBJECTS),
        ),
        metrics=obj(
            enabled=YES_NO,
            serviceMonitor=obj(enabled=YES_NO, interval=DURATION, labels=TEXTS),
            sidecarPodMonitor=obj(enabled=YES_NO, interval=DURATION, labels=TEXTS),
            prometheusRule=obj(enabled=YES_NO, labels=TEXTS),
            dashboards=obj(enabled=YES_NO, labels=TEXTS),
        ),
        tests=obj(enabled=YES_NO),
    )
    properties["properties"]["global"] = ANY_OBJECT  # Helm adds it where the chart is a dependency
    return {"$schema": DRAFT, "title": "Values of the chart flowless"} | properties


def bridge_sidecar() -> Schema:
    """Values of the library chart bridge-sidecar."""
    properties = obj(
        image=IMAGE,
        upstream={"type": "string", "pattern": "^([^/:\\s]+:[0-9]+)?$"},
        upstreamCa=CAS,
        insecureUpstream=YES_NO,
        clientCertificateSecret=NAME,
        bridgeSecret=obj(name=NAME, key=KEY),
        configMap=NAME,
        metrics=YES_NO,
        resources=RESOURCES,
        probes=obj(startup=PROBE, liveness=PROBE, readiness=PROBE),
    )
    properties["properties"]["global"] = ANY_OBJECT
    return {"$schema": DRAFT, "title": "Values of the library chart bridge-sidecar"} | properties


def main() -> int:
    """Write the schemas, or compare with what is there."""
    check = "--check" in sys.argv[1:]
    differing = 0
    for name, schema in (("flowless", flowless()), ("bridge-sidecar", bridge_sidecar())):
        path = CHARTS / name / "values.schema.json"
        text = json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        if check and (not path.exists() or path.read_text() != text):
            print(f"{path.relative_to(ROOT)} is not what the code says (run `make deploy-schema`)", file=sys.stderr)
            differing = 1
        elif not check:
            path.write_text(text)
    return differing


if __name__ == "__main__":
    sys.exit(main())
