"""Between rows and records."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from flowless.adapters.sql.database import from_us, to_us
from flowless.domain.bridges import Bridge, BridgeSecret, Scope
from flowless.domain.sessions import Session
from flowless.domain.users import Profile, User, UserStatus, canonical_user_name
from trust_core.modes import Binding

Row = Mapping[str, Any]


def list_text(values: Sequence[str]) -> str:
    """Write a list of texts as its column holds it."""
    return _json(list(values))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def plain(row: Mapping[Any, Any]) -> Row:
    """Read a row by plain names."""
    return {str(key): value for key, value in row.items()}


def optional(microseconds: int | None) -> datetime | None:
    """Read a moment that may be absent."""
    return None if microseconds is None else from_us(microseconds)


def profile_values(profile: Profile, only: frozenset[str] | None = None) -> dict[str, object]:
    """Columns of the profile fields, all or the named ones."""
    values: dict[str, object] = {
        "user_name": profile.user_name,
        "name": profile.name,
        "last_name": profile.last_name,
        "phone": profile.phone,
        "picture_url": profile.picture_url,
        "user_type": profile.user_type,
        "locale": profile.locale,
        "roles": _json(list(profile.roles)),
        "attributes": _json(dict(profile.attributes)),
    }
    if only is not None:
        values = {name: value for name, value in values.items() if name in only}
    if "user_name" in values:
        values["canonical_user_name"] = canonical_user_name(profile.user_name) or None
    return values


def user_values(user: User) -> dict[str, object]:
    """Columns of a user, without credentials."""
    return {
        "id": user.id,
        "email": user.email,
        "email_verified": user.email_verified,
        "status": user.status.value,
        "created_us": to_us(user.created_at),
        "updated_us": to_us(user.updated_at),
        "privilege_revision": user.privilege_revision,
        **profile_values(user.profile),
    }


def user_of(row: Row, prefix: str = "") -> User:
    """Read a user."""
    return User(
        id=row[prefix + "id"],
        email=row[prefix + "email"],
        email_verified=bool(row[prefix + "email_verified"]),
        status=UserStatus(row[prefix + "status"]),
        profile=Profile(
            user_name=row[prefix + "user_name"],
            name=row[prefix + "name"],
            last_name=row[prefix + "last_name"],
            phone=row[prefix + "phone"],
            picture_url=row[prefix + "picture_url"],
            user_type=row[prefix + "user_type"],
            locale=row[prefix + "locale"],
            roles=tuple(json.loads(row[prefix + "roles"])),
            attributes=json.loads(row[prefix + "attributes"]),
        ),
        created_at=from_us(row[prefix + "created_us"]),
        updated_at=from_us(row[prefix + "updated_us"]),
        privilege_revision=row[prefix + "privilege_revision"],
    )


def session_values(session: Session) -> dict[str, object]:
    """Columns of a new session: the bridge that logs in is the first that uses it."""
    return {
        "digest": session.digest,
        "handle": session.handle,
        "user_id": session.user_id,
        "epoch": session.epoch,
        "bound_ip": session.binding.client_ip,
        "binding_key": session.binding.key,
        "bound_device": session.binding.device_fingerprint,
        "bound_agent": session.binding.user_agent,
        "methods": _json(list(session.methods)),
        "device_name": session.device_name,
        "bridge_id": session.bridge_id,
        "created_us": to_us(session.created_at),
        "authenticated_us": to_us(session.authenticated_at),
        "last_seen_us": to_us(session.last_seen_at),
        "expires_us": to_us(session.expires_at),
        "revoked_us": None if session.revoked_at is None else to_us(session.revoked_at),
        "used_by": session.bridge_id,
        "id_revision": session.id_revision,
    }


def session_of(row: Row, prefix: str = "") -> Session:
    """Read a session."""
    return Session(
        digest=bytes(row[prefix + "digest"]),
        handle=row[prefix + "handle"],
        user_id=row[prefix + "user_id"],
        epoch=row[prefix + "epoch"],
        binding=Binding(
            client_ip=bytes(row[prefix + "bound_ip"]),
            key=bytes(row[prefix + "binding_key"]),
            device_fingerprint=bytes(row[prefix + "bound_device"]),
            user_agent=bytes(row[prefix + "bound_agent"]),
        ),
        methods=tuple(json.loads(row[prefix + "methods"])),
        device_name=row[prefix + "device_name"],
        bridge_id=row[prefix + "bridge_id"],
        created_at=from_us(row[prefix + "created_us"]),
        authenticated_at=from_us(row[prefix + "authenticated_us"]),
        last_seen_at=from_us(row[prefix + "last_seen_us"]),
        expires_at=from_us(row[prefix + "expires_us"]),
        revoked_at=optional(row[prefix + "revoked_us"]),
        id_revision=row[prefix + "id_revision"],
    )


def bridge_values(bridge: Bridge) -> dict[str, object]:
    """Columns of a bridge, without secrets."""
    return {
        "id": bridge.id,
        "name": bridge.name,
        "scopes": _json(sorted(scope.name for scope in bridge.scopes)),
        "created_us": to_us(bridge.created_at),
        "revoked_us": None if bridge.revoked_at is None else to_us(bridge.revoked_at),
        "client_id": bridge.client_id,
        "last_used_us": None if bridge.last_used_at is None else to_us(bridge.last_used_at),
    }


def secret_values(bridge_id: str, secret: BridgeSecret) -> dict[str, object]:
    """Columns of a bridge secret's digest."""
    return {
        "digest": secret.digest,
        "bridge_id": bridge_id,
        "created_us": to_us(secret.created_at),
        "expires_us": None if secret.expires_at is None else to_us(secret.expires_at),
        "last_used_us": None if secret.last_used_at is None else to_us(secret.last_used_at),
    }


def bridge_of(row: Row, secrets: list[Row]) -> Bridge:
    """Read a bridge with its secrets' digests."""
    return Bridge(
        id=row["id"],
        name=row["name"],
        scopes=frozenset(Scope[name] for name in json.loads(row["scopes"])),
        created_at=from_us(row["created_us"]),
        revoked_at=optional(row["revoked_us"]),
        client_id=row["client_id"],
        last_used_at=optional(row["last_used_us"]),
        secrets=tuple(
            BridgeSecret(
                digest=bytes(s["digest"]),
                created_at=from_us(s["created_us"]),
                expires_at=optional(s["expires_us"]),
                last_used_at=optional(s["last_used_us"]),
            )
            for s in secrets
        ),
    )
