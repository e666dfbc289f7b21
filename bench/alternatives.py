"""What an app might use instead of asking the sidecar: Redis with JSON, or a JWT. Measured in the same run.

Each is given its best case. Redis answers over a Unix socket from a warm cache, its key already made. The JWT's
key is already parsed. Neither does what a hit does: Redis' answer says nothing of revocation, mode or context, and
the JWT cannot be revoked at all.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jwt
import redis
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import json_format

from trustlayer.v1 import session_pb2


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


def claims(login: session_pb2.LoginResponse) -> dict[str, Any]:
    """Say in a JWT's claims what an app reads of a session; they hold for a day."""
    now = int(time.time())
    return {
        "sub": login.session.user.id,
        "iat": now,
        "exp": now + 86_400,
        "sid": login.session.handle,
        "email": login.session.user.email,
        "roles": list(login.session.user.roles),
    }


def jwt_verify(logins: Sequence[session_pb2.LoginResponse]) -> Callable[[int], object]:
    """Sign a token for every session (ES256); return what verifies the n-th."""
    private = ec.generate_private_key(ec.SECP256R1())
    public = private.public_key()
    tokens = [
        jwt.encode(
            {"iss": "https://issuer.example.com", "aud": "app", **claims(login)},
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
