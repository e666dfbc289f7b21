"""From a URL to a client of one Redis, of a master that Sentinels know, or of a Cluster. Connects at first use.

    redis://[user:password@]host:port/db           one server; rediss:// with TLS
    unix:///path?db=0                              one server on a Unix socket
    redis+sentinel://h1:p1,h2:p2/service[/db]      rediss+sentinel:// with TLS
    redis+cluster://h1:p1,h2:p2                    rediss+cluster:// with TLS

Nothing is retried and no wait is long: a tier that does not answer is a miss.
"""

from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

Client = Redis | RedisCluster
SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_CONNECT_SECONDS: Final = 1.0
"""A command that outlives its caller ends after this; meanwhile the connection it made is there for the next one."""


def problem_of(url: str) -> str | None:
    """Say what is wrong with a URL; `None` when nothing is."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        return f"must begin with one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    if parts.scheme == "unix":
        return None if parts.path.startswith("/") else "must be unix:///absolute/path"
    try:
        hosts = _hosts(parts.netloc, _DEFAULT_PORT)
    except ValueError:
        hosts = []
    if not hosts or not all(host for host, _ in hosts):
        return "must name host:port, several with commas between for Sentinel and Cluster"
    return _mismatch(parts, len(hosts))


def _mismatch(parts: SplitResult, hosts: int) -> str | None:
    if hosts > 1 and "+" not in parts.scheme:
        return "one server has one address; for several use redis+sentinel:// or redis+cluster://"
    if parts.scheme.endswith("+sentinel") and not parts.path.strip("/"):
        return "must name the service that the Sentinels watch: redis+sentinel://host:port/service"
    return None


def connect(url: str, *, max_connections: int, password: str | None = None) -> Client:
    """Make a client; `password` is that of the URL's user, where the URL holds none.

    Raises ValueError for a URL that `problem_of` complains of.
    """
    problem = problem_of(url)
    if problem is not None:
        raise ValueError(problem)
    parts = urlsplit(url)
    options: dict[str, Any] = {
        "socket_timeout": _CONNECT_SECONDS,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    if parts.scheme != "unix":
        options["socket_keepalive"] = True
    if password is not None:
        options["password"] = password
    if "+" not in parts.scheme:
        client: Client = Redis.from_url(url, max_connections=max_connections, **options)
        return client
    if parts.username:
        options["username"] = unquote(parts.username)
    if parts.password:
        options["password"] = unquote(parts.password)
    kind = parts.scheme.partition("+")[2]
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    if kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in _hosts(parts.netloc, _DEFAULT_PORT)]
        return RedisCluster(startup_nodes=nodes, max_connections=max_connections, **options)
    service, _, db = parts.path.strip("/").partition("/")
    sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]
        _hosts(parts.netloc, _SENTINEL_PORT),
        # Tried once, too: the next Sentinel knows the master as well as one that has gone.
        sentinel_kwargs={name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "retry")},
        **options,
    )
    master: Client = sentinel.master_for(service, db=int(db or 0), max_connections=max_connections)
    return master


async def disconnect(client: Client) -> None:
    """Close every connection, also those to the Sentinels, which the client of a master does not know as its own."""
    manager: Any = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.aclose()
    await client.aclose()


def _hosts(netloc: str, default_port: int) -> list[tuple[str, int]]:
    found = []
    for part in netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{part}")
        found.append((one.hostname or "", one.port or default_port))
    return found
