"""Settings of Flowless: from the environment (`FLOWLESS_…`) over an optional TOML file, checked once, then frozen."""

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from flowless.adapters.mail_templates import LANGUAGE, MailTemplates, TemplateError
from flowless.adapters.paseto import WRAPPING_KEY_BYTES
from flowless.adapters.passwords.common import CommonPasswordList
from flowless.adapters.passwords.pepper import Pepper, PepperError
from flowless.adapters.passwords.profiles import PROFILES, TESTING_PROFILE
from flowless.adapters.redis.connect import problem_of
from flowless.adapters.redis.payload import KEY_BYTES
from flowless.adapters.smtp import is_ca_file, sender_of
from flowless.adapters.smtp import problem_of as smtp_problem
from flowless.domain.attempts import AttemptLimits
from flowless.domain.links import is_loopback, link_problem
from flowless.domain.passwords import DEFAULT_MINIMUM, LOWEST_MINIMUM
from flowless.domain.replicas import LONGEST_STALENESS
from flowless.domain.trust_tokens import BUILT_IN, EMAIL_CHANGE_NOTICE, EMAIL_CHANGED, PURPOSE
from trust_core.modes import DEFAULT_PREFIXES, IpPrefixes, ValidationMode


class ConfigError(Exception):
    """The settings cannot be used; the text lists every problem and never a value."""


class Settings(BaseSettings):
    """All settings. Durations say their unit in their names."""

    model_config = SettingsConfigDict(env_prefix="FLOWLESS_", frozen=True, extra="forbid", hide_input_in_errors=True)

    database_url: str = Field(
        "sqlite:///flowless.db",
        repr=False,  # may hold a password
        description="sqlite:///relative.db, sqlite:////absolute.db or postgresql://user@host/database?sslmode=verify-full",
    )
    database_password_file: Path | None = Field(None, description="holds PostgreSQL's password, instead of the URL")
    database_pool_size: int = Field(8, ge=1, le=1_000, description="PostgreSQL connections of one process for reads")
    redis_url: str | None = Field(
        None,
        repr=False,  # may hold a password
        description="redis://, rediss://, unix:///path, redis+sentinel://h:p,h:p/service, redis+cluster://h:p,h:p",
    )
    redis_password_file: Path | None = Field(None, description="holds Redis' password, instead of the URL")
    redis_key_file: Path | None = Field(None, description="keys that seal what Redis holds; needed with redis_url")
    redis_timeout_seconds: float = Field(0.005, gt=0, le=0.1, description="how long a call waits for Redis")
    redis_ttl_seconds: int = Field(3_600, ge=1, le=86_400, description="entries of Redis live at most this long")
    listen: str = Field("127.0.0.1:7600", description="host:port, [v6]:port, or unix:/path")
    workers: int = Field(1, ge=1, le=64, description="processes that serve the port together")
    tls_cert_file: Path | None = Field(None, description="PEM chain; needed off loopback; read again when it changes")
    tls_key_file: Path | None = Field(None, description="PEM key of tls_cert_file; read again when it changes")
    tls_client_ca_file: Path | None = Field(
        None,
        description="PEM file of the CAs that vouch for clients, which then need a certificate; read again too",
    )
    mtls_listen: str = Field(
        "",
        description="host:port where clients need a certificate, while listen asks for none",
    )
    insecure_listen: bool = Field(
        False, description="allow plaintext off loopback; every secret is readable on the way"
    )

    session_absolute_seconds: int = Field(
        86_400,
        ge=60,
        le=366 * 86_400,
        description="sessions end this long after login (NIST SP 800-63B-4 AAL2: 24 h)",
    )
    session_idle_seconds: int = Field(
        3_600, ge=60, le=366 * 86_400, description="or this long after their last use (NIST SP 800-63B-4 AAL2: 1 h)"
    )
    session_max_per_user: int = Field(
        100, ge=1, le=10_000, description="live sessions of one user; a login over it ends the oldest (ASVS 7.1.2)"
    )
    ip_prefix_v4: int = Field(
        DEFAULT_PREFIXES.v4,
        ge=1,
        le=32,
        description="leading bits of an IPv4 client IP that must be those of the login",
    )
    ip_prefix_v6: int = Field(
        DEFAULT_PREFIXES.v6,
        ge=1,
        le=128,
        description="and of an IPv6 one; for validations that Flowless judges itself",
    )
    activity_interval_seconds: int = Field(60, ge=1, le=3_600, description="last use is written at most this often")

    password_profile: Literal["rfc9106-second", "owasp", "testing"] = Field(
        "rfc9106-second", description="Argon2id cost"
    )
    signing_key_file: Path | None = Field(
        None, description="keys that wrap the private parts of signing keys; trust tokens need it"
    )
    trust_token_purposes: frozenset[str] = Field(
        frozenset(), description="purposes of trust tokens that this deployment adds"
    )
    password_min_length: int = Field(
        DEFAULT_MINIMUM,
        ge=LOWEST_MINIMUM,
        le=64,
        description="characters of a new password (NIST SP 800-63B-4: 15 where it is the only factor, else 8)",
    )
    password_context_words: frozenset[str] = Field(
        frozenset(), description="words of the service that no password may be made of, such as its name"
    )
    common_passwords_file: Path | None = Field(None, description="passwords that nobody may have, one a line")
    breached_passwords_url: str = Field(
        "", description="range service (k-anonymity) that new passwords are looked up in; empty: none"
    )
    pepper_file: Path | None = Field(None, description="keys beside the database that passwords are hashed under")
    smtp_url: str | None = Field(
        None, description="smtps://user@host:465, smtp+starttls://user@host:587, or smtp://127.0.0.1:25"
    )
    smtp_password_file: Path | None = Field(None, description="holds the password of smtp_url's user")
    smtp_ca_file: Path | None = Field(None, description="PEM file of the CAs that may vouch for the mail server")
    smtp_timeout_seconds: float = Field(10.0, gt=0, le=60, description="how long the mail server may take for a mail")
    insecure_smtp: bool = Field(
        False, description="allow plaintext mail off loopback; links in it are readable on the way"
    )
    mail_from: str = Field("", description="sender: user@host, or name <user@host>; needed with smtp_url")
    mail_default_locale: str = Field("en", description="language of mails to people whose own there is not")
    mail_templates_dir: Path | None = Field(None, description="own words: TEMPLATE.LANGUAGE.txt and .html")
    link_urls: dict[str, str] = Field(
        {}, description="purpose -> https://… with {token}: what Flowless sends by mail, and where links lead"
    )
    hashing_queue: int = Field(64, ge=0, le=10_000, description="logins that may wait for a hashing worker")
    attempts_free: int = Field(5, ge=1, le=100, description="failed logins of an account and network without a wait")
    attempts_delay_max_seconds: int = Field(
        900,
        ge=1,
        le=3_600,
        description="then the wait doubles from 1 second up to this",
    )
    attempts_failed_per_account_per_day: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="from networks and devices that never logged in (NIST SP 800-63B-4: 100 at most)",
    )
    attempts_failed_per_ip_per_hour: int = Field(300, ge=1, le=1_000_000, description="of one network, any accounts")
    attempts_per_ip_per_minute: int = Field(120, ge=1, le=1_000_000, description="right ones included")
    attempts_per_bridge_per_minute: int = Field(6_000, ge=1, le=10_000_000, description="right ones included")
    testing: bool = Field(False, description="allow what only tests may use")

    busy_timeout_seconds: float = Field(2.0, gt=0, le=60, description="how long a call waits for the database")
    poll_seconds: float = Field(0.1, ge=0.01, le=1.0, description="the log is read at least this often")
    min_read_spacing_seconds: float = Field(0.002, ge=0, le=0.1, description="and at most this often")
    max_watchers: int = Field(2_000, ge=1, le=100_000, description="watch streams of one replica")
    max_watchers_per_bridge: int = Field(
        1_000, ge=1, le=100_000, description="of these, streams of one bridge: none takes the places of all others"
    )
    watch_staleness_max_seconds: int = Field(
        int(LONGEST_STALENESS.total_seconds()),
        ge=1,
        le=int(LONGEST_STALENESS.total_seconds()),
        description="sidecars that ask to be waited for longer after a ping get no lease",
    )
    max_connections: int = Field(10_000, ge=1, le=1_000_000, description="of one listener; more are closed at once")
    connection_age_seconds: float = Field(
        3_600, ge=1, le=7 * 86_400, description="then a connection is replaced, give or take a tenth"
    )
    connection_grace_seconds: float = Field(60, ge=0.1, le=3_600, description="time for its calls to end after that")
    max_concurrent_calls: int = Field(10_000, ge=1, le=1_000_000, description="calls in flight, streams included")
    max_message_bytes: int = Field(1_048_576, ge=4_096, le=16_777_216, description="largest request")
    lame_duck_seconds: float = Field(
        1.0, ge=0, le=60, description="after SIGTERM: NOT_SERVING this long while still answering"
    )
    drain_seconds: float = Field(10.0, ge=0, le=600, description="time for calls in flight after SIGTERM")
    housekeeping_interval_seconds: float = Field(
        300, ge=0, le=86_400, description="what nobody needs any more is deleted this often; 0: never"
    )
    session_retention_seconds: int = Field(
        7 * 86_400, ge=3_600, le=3_660 * 86_400, description="ended sessions are kept this long after their expiry"
    )
    log_retention_seconds: int = Field(
        86_400, ge=60, le=366 * 86_400, description="rows of the revocation log are kept at least this long"
    )
    audit_retention_days: int = Field(
        400, ge=0, le=36_600, description="events of the audit log are kept this long; 0: for ever"
    )
    health_listen: str = Field("", description="host:port of the kubelet's gRPC probes, in plaintext; empty: none")
    metrics_listen: str = Field("", description="host:port of the Prometheus metrics; empty: none")
    pubflow: bool = Field(False, description="serve the wire of Pubflow's HTTP bridge, for Envoy to map")
    pubflow_mode: Literal["sent", "standard", "advanced", "strict"] = Field(
        "sent", description="what its validations satisfy at least; sent: what the backend asks for and sends"
    )
    reflection: bool = Field(False, description="serve gRPC reflection, for development")

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal")
    log_requests: Literal["off", "failed", "all"] = Field(
        "off", description="a line for each call, or each failed one"
    )
    slow_query_seconds: float = Field(
        0.5, ge=0, le=60, description="a statement that takes longer is logged with the request id; 0: none"
    )
    traces_endpoint: str = Field(
        "", description="http(s)://host:port of a collector (OTLP over gRPC); empty: none; needs the extra tracing"
    )
    traces_sample_ratio: float = Field(
        0.01, ge=0, le=1, description="share of the requests to record of those whose caller has not decided"
    )
    core_dumps: bool = Field(False, description="leave the limits on core dumps as they are, for debugging")

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, url: str) -> str:
        if url.startswith(("postgresql://", "postgres://")):
            url = "postgresql://" + url.partition("://")[2]
            parts = urlsplit(url)
            if parts.path.strip("/") and not parts.fragment:
                return url
        # Neither a database of each connection's own nor options that only the driver understands.
        elif (
            url.startswith("sqlite:///") and url.rstrip("/") != "sqlite:" and ":memory:" not in url and "?" not in url
        ):
            return url
        raise ValueError(
            "must be sqlite:///relative.db, sqlite:////absolute.db or postgresql://user@host/database; "
            "in a password, @ : / ? # are written as %40 %3A %2F %3F %23"
        )

    @field_validator("redis_url")
    @classmethod
    def _known_redis(cls, url: str | None) -> str | None:
        problem = None if url is None else problem_of(url)
        if problem is not None:
            raise ValueError(problem)
        return url

    @field_validator("listen")
    @classmethod
    def _known_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        # gRPC would take a port beyond 65535 modulo 65536.
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
        if not listen.startswith("unix:/") and not (host and host != "unix" and is_port):
            raise ValueError("must be host:port with a port up to 65535, [v6]:port or unix:/absolute/path")
        return listen

    @field_validator("health_listen", "metrics_listen", "mtls_listen")
    @classmethod
    def _known_second_address(cls, listen: str) -> str:
        host, _, port = listen.rpartition(":")
        if listen and not (host and port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
            raise ValueError("must be host:port with a port up to 65535, or empty")
        return listen

    @field_validator("traces_endpoint")
    @classmethod
    def _known_collector(cls, endpoint: str) -> str:
        scheme, _, address = endpoint.partition("://")
        host, _, port = address.rpartition(":")
        is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535
        # A name and a password would stand in whatever shows the settings; gRPC does nothing with them.
        plain = bool(host) and not set("@/").intersection(host)
        if endpoint and not (scheme in ("http", "https") and plain and is_port):
            raise ValueError("must be http://host:port or https://host:port, or empty")
        return endpoint

    @field_validator("breached_passwords_url")
    @classmethod
    def _known_ranges(cls, url: str) -> str:
        parts = urlsplit(url)
        local = parts.scheme == "http" and is_loopback(parts.hostname or "")
        if url and not ((parts.scheme == "https" or local) and parts.hostname and url.endswith("/")):
            raise ValueError("must be https://host/path/, to which five characters are added, or empty")
        return url

    @field_validator("link_urls")
    @classmethod
    def _known_links(cls, urls: dict[str, str]) -> dict[str, str]:
        problems = {purpose: link_problem(url) for purpose, url in urls.items()}
        found = [f"{purpose} {problem}" for purpose, problem in problems.items() if problem is not None]
        if found:
            raise ValueError("; ".join(found))
        return urls

    @field_validator("mail_default_locale")
    @classmethod
    def _known_locale(cls, locale: str) -> str:
        if LANGUAGE.fullmatch(locale.lower()) is None:
            raise ValueError("must be a language tag such as en or pt-BR")
        return locale

    @field_validator("trust_token_purposes")
    @classmethod
    def _known_purposes(cls, purposes: frozenset[str]) -> frozenset[str]:
        if len(purposes) > 100 or not all(PURPOSE.fullmatch(name) and name not in BUILT_IN for name in purposes):
            raise ValueError(
                "must be at most 100 names of 3 to 64 lower-case letters, digits and '_', none of them built in"
            )
        return purposes

    @field_validator("password_profile")
    @classmethod
    def _known_profile(cls, profile: str) -> str:
        if profile not in PROFILES:
            raise ValueError(f"must be one of {', '.join(PROFILES)}")
        return profile

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.password_profile == TESTING_PROFILE and not self.testing:
            raise ValueError("password_profile 'testing' is worthless on purpose and needs testing = true")
        if self.database_password_file is not None and self.database_file is not None:
            raise ValueError("database_password_file is for PostgreSQL; SQLite has no password")
        if self.redis_url is not None and self.redis_key_file is None:
            raise ValueError(
                "redis_url needs redis_key_file, a file that all replicas share: openssl rand -base64 32 > FILE"
            )
        if self.redis_password_file is not None and (self.redis_url is None or urlsplit(self.redis_url).password):
            raise ValueError("redis_password_file needs redis_url, and one without a password")
        self._consistent_mail()
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together")
        self._consistent_client_certificates()
        if self.tls_cert_file is None and not self.insecure_listen and not self.is_local:
            raise ValueError(
                "listen is neither loopback nor a Unix socket: set tls_cert_file and tls_key_file, "
                "or insecure_listen = true if something else encrypts"
            )
        if self.listen.startswith("unix:") and (
            not self.listen.startswith("unix:/") or self.tls_cert_file is not None
        ):
            raise ValueError("listen: a Unix socket is unix:/absolute/path and takes no TLS")
        if self.workers > 1 and self.listen.startswith("unix:"):
            raise ValueError("workers: a Unix socket has one owner; listen on host:port, or set workers = 1")
        if self.workers > 1 and self.health_listen:
            raise ValueError(
                "health_listen: a probe would speak for one worker only; set workers = 1 and run more replicas"
            )
        if self.session_idle_seconds > self.session_absolute_seconds:
            raise ValueError("session_idle_seconds must not exceed session_absolute_seconds")
        if self.activity_interval_seconds > self.session_idle_seconds / 2:
            raise ValueError("activity_interval_seconds must not exceed half of session_idle_seconds")
        return self

    def _consistent_client_certificates(self) -> None:
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError("tls_client_ca_file needs tls_cert_file and tls_key_file")
        if self.mtls_listen and self.tls_client_ca_file is None:
            raise ValueError("mtls_listen needs tls_client_ca_file")
        if self.mtls_listen.endswith(":0") and self.workers > 1:
            raise ValueError("mtls_listen: workers share a port, so it has to be named")

    def _consistent_mail(self) -> None:
        if self.smtp_url is None:
            if self.link_urls or self.smtp_password_file is not None:
                raise ValueError("link_urls and smtp_password_file need smtp_url")
            return
        problem = smtp_problem(self.smtp_url, allow_insecure=self.insecure_smtp)
        if problem is not None:
            raise ValueError(f"smtp_url {problem}")
        if sender_of(self.mail_from) is None:
            raise ValueError("smtp_url needs mail_from: user@host, or name <user@host>")
        if (urlsplit(self.smtp_url).username is None) != (self.smtp_password_file is None):
            raise ValueError("smtp_password_file and a user in smtp_url belong together")
        unknown = sorted(self.link_urls.keys() - BUILT_IN.keys() - self.trust_token_purposes)
        if unknown:
            raise ValueError(f"link_urls names purposes that there are not: {', '.join(unknown)}")

    @property
    def is_local(self) -> bool:
        """Whether `listen` can only be reached from this machine."""
        if self.listen.startswith("unix:"):
            return True
        host = self.listen.rpartition(":")[0].strip("[]")
        return is_loopback(host)

    @property
    def session_absolute(self) -> timedelta:
        """Absolute session lifetime."""
        return timedelta(seconds=self.session_absolute_seconds)

    @property
    def attempt_limits(self) -> AttemptLimits:
        """Limits on attempts at passwords and trust tokens."""
        return AttemptLimits(
            free=self.attempts_free,
            delay_max_seconds=self.attempts_delay_max_seconds,
            failed_per_account_per_day=self.attempts_failed_per_account_per_day,
            failed_per_ip_per_hour=self.attempts_failed_per_ip_per_hour,
            per_ip_per_minute=self.attempts_per_ip_per_minute,
            per_bridge_per_minute=self.attempts_per_bridge_per_minute,
        )

    @property
    def ip_prefixes(self) -> IpPrefixes:
        """How much of a client IP is compared where Flowless itself judges a request."""
        return IpPrefixes(v4=self.ip_prefix_v4, v6=self.ip_prefix_v6)

    @property
    def pubflow_least_mode(self) -> ValidationMode | None:
        """What validations of the Pubflow wire satisfy at least; `None`: what backends ask for."""
        return ValidationMode.__members__.get(self.pubflow_mode.upper())

    @property
    def session_idle(self) -> timedelta:
        """Idle session lifetime."""
        return timedelta(seconds=self.session_idle_seconds)

    @property
    def database_file(self) -> Path | None:
        """File of the SQLite database; `None` for a database server."""
        prefix = "sqlite:///"
        return Path(self.database_url.removeprefix(prefix)) if self.database_url.startswith(prefix) else None

    def redis_keys(self) -> list[bytes]:
        """Read the keys of the Redis tier, the first of which seals. Raises ConfigError."""
        return _keys("redis_key_file", self.redis_key_file, KEY_BYTES)

    def pepper(self) -> Pepper:
        """Read the pepper file. Raises ConfigError."""
        if self.pepper_file is None:
            return Pepper()
        try:
            return Pepper.parse(self.pepper_file.read_text())
        except PepperError as error:
            raise ConfigError(f"pepper_file: {self.pepper_file}: {error}") from None
        except (OSError, ValueError):
            raise ConfigError(f"pepper_file: cannot read {self.pepper_file}") from None

    def common_passwords(self) -> CommonPasswordList:
        """Prepare the list of common passwords. Raises ConfigError for a file that cannot be read."""
        found = CommonPasswordList(file=self.common_passwords_file)
        if self.common_passwords_file is not None:
            try:
                found.load()
            except (OSError, ValueError):
                raise ConfigError(f"common_passwords_file: cannot read {self.common_passwords_file}") from None
        return found

    def signing_wrapping_keys(self) -> list[bytes]:
        """Read the keys that wrap signing keys, the first of which wraps. Raises ConfigError."""
        return _keys("signing_key_file", self.signing_key_file, WRAPPING_KEY_BYTES)

    def database_password(self) -> str | None:
        """Read the password file. Raises ConfigError."""
        return _password("database_password_file", self.database_password_file)

    def redis_password(self) -> str | None:
        """Read the password file. Raises ConfigError."""
        return _password("redis_password_file", self.redis_password_file)

    def smtp_password(self) -> str | None:
        """Read the password file. Raises ConfigError."""
        return _password("smtp_password_file", self.smtp_password_file)

    @property
    def mail_purposes(self) -> frozenset[str]:
        """What Flowless can send by mail: links that have a URL, and the notices that have none."""
        if self.smtp_url is None:
            return frozenset()
        return frozenset(self.link_urls) | {EMAIL_CHANGE_NOTICE, EMAIL_CHANGED}

    def mail_templates(self) -> MailTemplates:
        """Read the words of mails. Raises ConfigError."""
        try:
            return MailTemplates.load(
                self.mail_templates_dir, needed=self.mail_purposes, default_locale=self.mail_default_locale
            )
        except TemplateError as error:
            raise ConfigError(f"mail_templates_dir: {error}") from None

    def check_files(self) -> None:
        """Read every file that settings name and that is read later. Raises ConfigError."""
        self.database_password()
        self.redis_password()
        self.redis_keys()
        self.signing_wrapping_keys()
        self.pepper()
        self.common_passwords()
        self.smtp_password()
        self.mail_templates()
        if self.smtp_ca_file is not None and not is_ca_file(self.smtp_ca_file):
            raise ConfigError(f"smtp_ca_file: {self.smtp_ca_file} must be a PEM file of certificates")


def _password(setting: str, path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = path.read_text().rstrip("\r\n")
    except (OSError, ValueError):
        raise ConfigError(f"{setting}: cannot read {path}") from None
    if not text:
        raise ConfigError(f"{setting}: {path} is empty")
    return text


def _keys(setting: str, path: Path | None, size: int) -> list[bytes]:
    if path is None:
        return []
    try:
        keys = [base64.b64decode(line, validate=True) for line in path.read_text().split()]
    except (OSError, ValueError):
        keys = []
    if not keys or any(len(key) != size for key in keys):
        raise ConfigError(
            f"{setting}: {path} must hold one or more lines of {size} random bytes as base64; "
            f"make one with: openssl rand -base64 {size} > FILE"
        )
    return keys


def load(config_file: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings. Raises ConfigError with every problem found."""

    class _FromFile(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            sources: tuple[PydanticBaseSettingsSource, ...] = (init_settings, env_settings)
            if config_file is not None:
                sources += (TomlConfigSettingsSource(settings_cls, toml_file=config_file),)
            return sources

    if config_file is not None and not config_file.is_file():
        raise ConfigError(f"no such file: {config_file}")
    try:
        return _FromFile(**overrides)
    except ValidationError as error:
        problems = "\n".join(
            f"  {'.'.join(str(part) for part in e['loc']) or 'settings'}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors(include_input=False, include_url=False)
        )
        raise ConfigError(f"the settings cannot be used:\n{problems}") from None
    except ValueError as error:  # a TOML file that is not TOML
        raise ConfigError(f"{config_file}: {error}") from None
