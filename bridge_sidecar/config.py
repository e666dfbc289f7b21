"""The sidecar's settings: a TOML file overlaid by `BRIDGE_SIDECAR_*` variables, checked once, then frozen.

Every problem is found before any is reported, and each says what to do. No message holds a value: one of them could
be the secret, mistyped into another setting.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from bridge_sidecar import gate_config
from bridge_sidecar.healthcheck import DEFAULT_SOCKET
from bridge_sidecar.routes import RouteTable, Rule
from bridge_sidecar.routes_config import parse_toml, rules_of
from trust_core import small_file
from trust_core.clock import NS_PER_SECOND
from trust_core.modes import DEFAULT_PREFIXES, IpPrefixes, ValidationMode

PREFIX: Final = "BRIDGE_SIDECAR_"
SECRET_VARIABLE: Final = f"{PREFIX}SECRET"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
"""Names the file, where no option does."""
DEFAULT_RELAY: Final = (
    "IdentityService/RegisterUser",
    "IdentityService/GetUser",
    "IdentityService/LookUpUser",
    "IdentityService/ChangePassword",
    "IdentityService/ResetPassword",
    "IdentityService/AcceptInvitation",
    "IdentityService/StartEmailChange",
    "IdentityService/ConfirmEmailChange",
    "SessionService/*",
    "TrustTokenService/*",
)

_MODES: Final = {mode.name.lower(): mode for mode in ValidationMode}
_TRUTH: Final = {"true": True, "1": True, "false": False, "0": False}
_PLAIN_KEY = re.compile(r"[a-z_]{1,40}", re.ASCII)
_MAX_UNKNOWN: Final = 20
_RELAY_NAME = re.compile(r"[A-Za-z]+/(?:[A-Za-z]+|\*)", re.ASCII)
# Orchestrators put variables like these into every container when a service is named after the sidecar.
_INJECTED = re.compile(rf"{PREFIX}(?:SERVICE_(?:HOST|PORT.*)|PORT(?:_.*)?)", re.ASCII)


class ConfigError(Exception):
    """The settings cannot be used; the text lists every problem, one a line."""

    def __init__(self, *problems: str) -> None:
        super().__init__("the settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


def _default_instance() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"[:128]


@dataclass(frozen=True, slots=True, kw_only=True)
class SidecarConfig(gate_config.GateSettings):
    """All settings. Durations say their unit in their names. The socket's mode is always 0660."""

    socket_path: str = DEFAULT_SOCKET
    upstream: str = "127.0.0.1:7600"
    """`host:port`, `[v6]:port`, several IP addresses with ports between commas, or `unix:/path`. Plaintext only goes
    to loopback and Unix sockets."""
    upstream_ca_file: str | None = None
    """PEM file of the CAs that may vouch for Flowless. Set, it turns TLS on."""
    upstream_cert_file: str | None = None
    """PEM chain that this sidecar shows Flowless, where that asks for one."""
    upstream_key_file: str | None = None
    """PEM key of upstream_cert_file. All three files are read again when they change."""
    insecure_upstream: bool = False
    """Allow plaintext off loopback, because something else (a mesh) encrypts."""
    bridge_secret_file: str | None = None
    bridge_secret: str | None = field(default=None, repr=False)
    """From the environment variable BRIDGE_SIDECAR_SECRET only."""
    instance: str = field(default_factory=_default_instance)

    max_staleness_seconds: float = 2.0
    """The bound of the guarantee."""
    ping_interval_seconds: float = 0.0
    """0: a quarter of max_staleness."""
    default_mode: str = "standard"
    ip_prefix_v4: int = DEFAULT_PREFIXES.v4
    """Leading bits of the client IP that must be those bound at login; a rule may say otherwise."""
    ip_prefix_v6: int = DEFAULT_PREFIXES.v6
    routes_required: bool = False
    """Deny questions of apps that name neither a rule nor a request."""
    routes: tuple[Rule, ...] = ()
    """Rules of routes, from the file only."""

    cache_max_entries: int = 10_000
    cache_max_bytes: int = 64 * 1024 * 1024
    prewarm_max_entries: int = 1_000
    """Sessions asked for at start, so that the cache is warm before the first question; 0: none."""
    negative_max_entries: int = 4_096
    negative_ttl_seconds: float = 5.0

    max_concurrent_misses: int = 64
    max_waiting_misses: int = 1_024
    upstream_timeout_seconds: float = 1.0
    activity_interval_seconds: float = 15.0

    relay: tuple[str, ...] = DEFAULT_RELAY
    max_relayed_calls: int = 256
    relay_default_timeout_seconds: float = 10.0

    metrics_listen: str = ""
    """`host:port` of the Prometheus metrics, over plain HTTP; empty: none. Needs the extra `sidecar-metrics`."""
    health_listen: str = ""
    """`host:port` of the kubelet's gRPC probes, in plaintext; empty: none."""
    ready_without_lease: bool = False
    """Ready as soon as the socket answers, whether or not Flowless was ever reached."""
    lame_duck_seconds: float = 0.0
    """After SIGTERM: not ready for this long, while the socket is still there for an app that ends later."""
    traces_endpoint: str = ""
    """`http://host:port` or `https://host:port` of a collector (OTLP over gRPC); empty: none. Needs the extra
    `tracing`."""
    traces_sample_ratio: float = 0.01
    """Share of the requests to record of those whose caller has not decided."""
    drain_seconds: float = 5.0
    core_dumps: bool = False
    log_level: str = "info"
    log_format: str = "auto"
    log_requests: str = "off"

    @property
    def max_staleness_ns(self) -> int:
        """The bound of the guarantee."""
        return round(self.max_staleness_seconds * NS_PER_SECOND)

    @property
    def ping_interval_ns(self) -> int:
        """How often freshness is asked for."""
        return round((self.ping_interval_seconds or self.max_staleness_seconds / 4) * NS_PER_SECOND)

    @property
    def ip_prefixes(self) -> IpPrefixes:
        """How much of the client IP is compared where no rule says otherwise."""
        return IpPrefixes(v4=self.ip_prefix_v4, v6=self.ip_prefix_v6)

    @property
    def route_table(self) -> RouteTable:
        """The rules, ready to be asked. Compiles them at each call."""
        return RouteTable(self.routes, ip_prefixes=self.ip_prefixes, default_mode=self.mode)

    @property
    def negative_ttl_ns(self) -> int:
        """How long a denial is remembered."""
        return round(self.negative_ttl_seconds * NS_PER_SECOND)

    @property
    def mode(self) -> ValidationMode:
        """The mode of requests that name none."""
        return _MODES[self.default_mode]


_RANGES: Final[dict[str, tuple[float, float]]] = {
    "max_staleness_seconds": (0.05, 60),
    "ip_prefix_v4": (1, 32),
    "ip_prefix_v6": (1, 128),
    "ping_interval_seconds": (0, 30),
    "cache_max_entries": (1, 10_000_000),
    "cache_max_bytes": (64 * 1024, 64 * 1024**3),
    "prewarm_max_entries": (0, 10_000),
    "negative_max_entries": (1, 1_000_000),
    "negative_ttl_seconds": (0, 60),
    "max_concurrent_misses": (1, 10_000),
    "max_waiting_misses": (0, 1_000_000),
    "upstream_timeout_seconds": (0.01, 60),
    "activity_interval_seconds": (0.1, 600),
    "max_relayed_calls": (1, 100_000),
    "relay_default_timeout_seconds": (0.1, 600),
    "lame_duck_seconds": (0, 3_600),
    "drain_seconds": (0, 600),
    "traces_sample_ratio": (0, 1),
}
_MAX_FILE_BYTES: Final = 256 * 1024
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "default_mode": tuple(_MODES),
    # As `trust_core.logs` has them, which is not imported here: it loads structlog, and `cli` has to say first what
    # structlog shall not load.
    "log_level": ("debug", "info", "warning", "error"),
    "log_format": ("auto", "json", "console"),
    "log_requests": ("off", "failed", "all"),
}
_DEFAULTS: Final = {f.name: f.default for f in fields(SidecarConfig)}
_SETTABLE: Final = tuple(name for name in _DEFAULTS if name not in ("bridge_secret", "routes"))


def load(config_file: Path | None, environment: Mapping[str, str]) -> SidecarConfig:
    """Read and check the settings. Raises `ConfigError`."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    environment_problems: list[str] = []
    variables = _from_environment(environment, environment_problems)
    if config_file is not None:
        values |= _from_file(config_file, problems, variables)
    values |= variables
    problems += environment_problems
    config = _checked(values, problems)
    problems += _inconsistent(config)
    if problems:
        raise ConfigError(*problems)
    return config


def load_file(config_file: Path) -> SidecarConfig:
    """Read and check a file alone, without what only the environment can say, such as the secret.

    Raises `ConfigError`.
    """
    problems: list[str] = []
    return _checked(_from_file(config_file, problems), problems)


def _checked(values: dict[str, Any], problems: list[str]) -> SidecarConfig:
    if problems:
        raise ConfigError(*problems)
    config = SidecarConfig(**values)
    problems += _out_of_range(config)
    if config.default_mode != "standard" and any(
        rule.serve_beyond_lease_ns and rule.mode is None for rule in config.routes
    ):
        problems.append('default_mode: a rule with serve_beyond_lease_seconds needs mode = "standard" then')
    if problems:
        raise ConfigError(*problems)
    return config


def _from_file(
    path: Path, problems: list[str], variables: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    try:
        content, _ = small_file.read(path, most_bytes=_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            problems.append(f"{path}: has more than {_MAX_FILE_BYTES} bytes")
            return {}
        text = content.decode()
        table = parse_toml(text)
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return {}
    except UnicodeDecodeError:  # its text quotes the file, and the file may hold anything
        problems.append(f"{path}: not UTF-8")
        return {}
    except ValueError as error:
        problems.append(f"{path}: {error}")
        return {}
    values: dict[str, Any] = {}
    unknown: list[str] = []
    routes = table.pop("routes", None)
    for key, value in table.items():
        if key in ("bridge_secret", "secret"):
            problems.append(f"{key}: does not belong in this file; use bridge_secret_file or {SECRET_VARIABLE}")
        elif key not in _SETTABLE:
            # It may be anything, a secret included, and there may be thousands of them.
            unknown.append(key if _PLAIN_KEY.fullmatch(key) else "a setting")
        else:
            _take(key, value, values, problems, _typed)
    problems += [
        f"{key}: no such setting; known are {', '.join(_SETTABLE)}, routes" for key in unknown[:_MAX_UNKNOWN]
    ]
    if routes is not None:
        known = {**values, **variables}  # variables win, in rules that say nothing as well
        prefixes = IpPrefixes(
            v4=known.get("ip_prefix_v4", DEFAULT_PREFIXES.v4), v6=known.get("ip_prefix_v6", DEFAULT_PREFIXES.v6)
        )
        values["routes"] = rules_of(routes, text, ip_prefixes=prefixes, problems=problems)
    return values


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        key = variable.removeprefix(PREFIX).lower()
        if not variable.startswith(PREFIX) or variable == CONFIG_VARIABLE or _INJECTED.fullmatch(variable):
            continue
        if variable == SECRET_VARIABLE:
            values["bridge_secret"] = text
        elif key not in _SETTABLE or variable != variable.upper():
            problems.append(f"{variable}: no such setting")
        else:
            _take(key, text, values, problems, _parsed)
    return values


def _take(
    key: str, value: object, values: dict[str, Any], problems: list[str], convert: Callable[[object, object], Any]
) -> None:
    default = _DEFAULTS[key]
    try:
        values[key] = convert(value, default)
    except (ValueError, TypeError, KeyError, OverflowError):
        problems.append(f"{key}: must be {_kind(default)}")


def _kind(default: object) -> str:
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, int):
        return "a whole number"
    if isinstance(default, float):
        return "a number of seconds"
    if isinstance(default, tuple):
        return "a list of texts"
    return "a text"


def _typed(value: object, default: object) -> Any:
    """Check a value of TOML against the type of the default."""
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    wanted = str if default is None or default is MISSING else type(default)
    if type(value) is not wanted:
        raise TypeError
    return value


def _parsed(value: object, default: object) -> Any:
    """Read a variable's text as the type of the default."""
    text = str(value).strip()
    if isinstance(default, bool):
        return _TRUTH[text.lower()]
    if isinstance(default, int):
        return int(text)
    if isinstance(default, float):
        return float(text)
    if isinstance(default, tuple):
        return tuple(name.strip() for name in text.split(",") if name.strip())
    return text


def _out_of_range(config: SidecarConfig) -> list[str]:
    problems = [
        f"{key}: must be between {low:g} and {high:g}"
        for key, (low, high) in _RANGES.items()
        if not low <= getattr(config, key) <= high
    ]
    problems += [
        f"{key}: must be one of {', '.join(choices)}"
        for key, choices in _CHOICES.items()
        if getattr(config, key) not in choices
    ]
    if not 1 <= len(config.instance) <= 128:
        problems.append("instance: must have 1 to 128 characters")
    if not all(_RELAY_NAME.fullmatch(name) for name in config.relay):
        problems.append("relay: must be a list of names like SessionService/Login or SessionService/*")
    problems += gate_config.problems_of(config)
    problems += [
        f"{key}: must be host:port or [v6]:port with a port up to 65535, or empty"
        for key in ("metrics_listen", "health_listen")
        if getattr(config, key) and not _is_listen_address(getattr(config, key))
    ]
    scheme, _, address = config.traces_endpoint.partition("://")
    # A name and a password would stand in whatever shows the settings; gRPC does nothing with them.
    plain = not set("@/").intersection(address) and _is_listen_address(address)
    if config.traces_endpoint and not (scheme in ("http", "https") and plain):
        problems.append("traces_endpoint: must be http://host:port or https://host:port, or empty")
    return problems


def _is_listen_address(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535


def _inconsistent(config: SidecarConfig) -> list[str]:
    problems: list[str] = []
    if (config.bridge_secret is None) == (config.bridge_secret_file is None):
        problems.append(f"bridge secret: set exactly one of bridge_secret_file and {SECRET_VARIABLE}")
    if config.upstream_timeout_seconds > config.max_staleness_seconds:
        problems.append(
            "upstream_timeout_seconds: must not exceed max_staleness_seconds, or shared answers are too old"
        )
    if config.ping_interval_seconds and not (
        config.max_staleness_seconds / 32 <= config.ping_interval_seconds <= config.max_staleness_seconds / 2
    ):
        problems.append("ping_interval_seconds: must be between 1/32 and 1/2 of max_staleness_seconds")
    if not Path(config.socket_path).is_absolute():
        problems.append("socket_path: must be an absolute path")
    problems += _client_certificate_problems(config)
    problems += _upstream_problems(config)
    return problems


def _client_certificate_problems(config: SidecarConfig) -> list[str]:
    files = (config.upstream_cert_file, config.upstream_key_file)
    if files == (None, None):
        return []
    if None in files:
        return ["upstream_cert_file, upstream_key_file: belong together; set both or neither"]
    if config.upstream_ca_file is None:
        return ["upstream_cert_file: is shown over TLS only; set upstream_ca_file"]
    return []


def _upstream_problems(config: SidecarConfig) -> list[str]:
    if config.upstream.startswith("unix:/"):
        return ["upstream_ca_file: no TLS over a Unix socket; leave it out"] if config.upstream_ca_file else []
    addresses = config.upstream.split(",")
    hosts = [_host_of(address) for address in addresses]
    if not all(hosts):
        return ["upstream: must be host:port, [v6]:port or unix:/absolute/path"]
    if len(addresses) > 1 and (config.upstream_ca_file is not None or not _of_one_family(hosts)):
        return [
            "upstream: several addresses must be IP addresses of one family, without TLS; "
            "with TLS, or by name, use one name that resolves to all of them"
        ]
    return _trust_problems(config, hosts)


def _trust_problems(config: SidecarConfig, hosts: list[str]) -> list[str]:
    if config.upstream_ca_file is not None:
        if config.insecure_upstream:
            return ["insecure_upstream: contradicts upstream_ca_file; leave one out"]
        if not Path(config.upstream_ca_file).is_file():
            return ["upstream_ca_file: no such file"]
    elif not config.insecure_upstream and not all(map(_is_loopback, hosts)):
        return [
            "upstream: is not loopback, so the bridge secret would be readable on the way; set upstream_ca_file, "
            "or insecure_upstream = true if something else encrypts"
        ]
    return []


def _host_of(address: str) -> str:
    """Host of `host:port`; empty when it is none."""
    host, _, port = address.rpartition(":")
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65_536
    return host.strip("[]") if is_port and "/" not in host else ""


def _of_one_family(hosts: list[str]) -> bool:
    try:
        return len({ipaddress.ip_address(host).version for host in hosts}) == 1
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
