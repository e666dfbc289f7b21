"""Between records and messages."""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2

from flowless.domain.audit import AuditRecord
from flowless.domain.bridges import Bridge
from flowless.domain.fields import Fields
from flowless.domain.replicas import ReplicaRecord
from flowless.domain.sessions import ActiveSession, Session
from flowless.domain.signing_keys import KeyState, SigningKey
from flowless.domain.users import Profile, User, UserStatus
from flowless.grpc import figures
from trust_core import modes
from trust_core.modes import DENIAL_TEXT, DenialReason, RequestContext, ValidationMode
from trustlayer.v1 import admin_pb2, bridge_pb2, identity_pb2, options_pb2, session_pb2, trust_token_pb2, types_pb2

_STATUS = {
    UserStatus.ACTIVE: types_pb2.USER_STATUS_ACTIVE,
    UserStatus.DISABLED: types_pb2.USER_STATUS_DISABLED,
}
_STRUCT_BYTES = 65_536
"""More than any JSON text that is accepted takes as a Struct: what is larger would only hold the event loop up."""
_DURATION_SECONDS = 315_576_000_000
"""Protobuf's range: ten thousand years. `timedelta` holds more, and sums of it would then overflow."""


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """Timestamp of a moment."""
    message = timestamp_pb2.Timestamp()
    message.FromDatetime(moment)
    return message


def duration(delta: timedelta) -> duration_pb2.Duration:
    """Duration of a time delta."""
    message = duration_pb2.Duration()
    message.FromTimedelta(delta)
    return message


def time_delta(field: str, message: duration_pb2.Duration, fields: Fields) -> timedelta:
    """Time delta of a duration; notes one that is out of protobuf's range."""
    try:
        if abs(message.seconds) <= _DURATION_SECONDS:
            return message.ToTimedelta()
    except ValueError:
        pass
    fields.add(field, "a valid duration")
    return timedelta(0)


def user(record: User) -> types_pb2.User:
    """Message of a user."""
    profile = record.profile
    message = types_pb2.User(
        id=record.id,
        email=record.email,
        email_verified=record.email_verified,
        user_name=profile.user_name,
        name=profile.name,
        last_name=profile.last_name,
        phone=profile.phone,
        picture_url=profile.picture_url,
        user_type=profile.user_type,
        locale=profile.locale,
        status=_STATUS[record.status],
        roles=profile.roles,
        create_time=timestamp(record.created_at),
        update_time=timestamp(record.updated_at),
    )
    if profile.attributes:
        json_format.ParseDict(dict(profile.attributes), message.attributes)
    return message


def plain(field: str, message: struct_pb2.Struct) -> Mapping[str, Any]:
    """Plain data of a Struct. Raises INVALID_FIELD for one that JSON cannot express, or that is far too large."""
    try:
        if message.ByteSize() > _STRUCT_BYTES:
            raise ValueError("not even worth converting")
        found: Mapping[str, Any] = json_format.MessageToDict(message)
    except (json_format.SerializeToJsonError, ValueError, RecursionError):
        fields = Fields()
        fields.add(field, "a JSON object with finite numbers, not too large")
        fields.refuse()
        raise
    return found


def by_mail(number: int, fields: Fields) -> bool:
    """Whether Flowless sends a token; notes a delivery that this version does not know."""
    if number not in (trust_token_pb2.TRUST_TOKEN_DELIVERY_UNSPECIFIED, trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL):
        fields.add("delivery", "a TrustTokenDelivery that this version knows, or unspecified")
    return number == trust_token_pb2.TRUST_TOKEN_DELIVERY_MAIL


def profile(message: identity_pb2.RegisterUserRequest | identity_pb2.ImportedUser | types_pb2.User) -> Profile:
    """Profile fields of a request; the messages share their names."""
    return Profile(
        user_name=message.user_name,
        name=message.name,
        last_name=message.last_name,
        phone=message.phone,
        picture_url=message.picture_url,
        user_type=message.user_type,
        locale=message.locale,
        roles=tuple(message.roles),
        attributes=plain("attributes", message.attributes),
    )


def context(message: types_pb2.RequestContext) -> RequestContext:
    """Record of a request context."""
    return RequestContext(
        client_ip=message.client_ip,
        device_fingerprint=message.device_fingerprint,
        user_agent=message.user_agent,
    )


def mode(number: int) -> ValidationMode | None:
    """Mode of its number; `None` for unspecified; INVALID_FIELD for a number that this version does not know."""
    if number == types_pb2.VALIDATION_MODE_UNSPECIFIED:
        return None
    try:
        return ValidationMode(number)
    except ValueError:
        fields = Fields()
        fields.add("mode", "one of STANDARD, ADVANCED, STRICT, or unspecified")
        fields.refuse()
        raise


def session(active: ActiveSession) -> types_pb2.Session:
    """Message of an active session, as an app may see it."""
    record = active.session
    return types_pb2.Session(
        handle=record.handle,
        user=user(active.user),
        create_time=timestamp(record.created_at),
        authenticate_time=timestamp(record.authenticated_at),
        expire_time=timestamp(record.expires_at),
        authentication_methods=record.methods,
        satisfiable_modes=[
            types_pb2.ValidationMode.ValueType(m.value) for m in modes.satisfiable_modes(record.binding)
        ],
        rotation_due=active.rotation_due,
    )


def cacheable(active: ActiveSession, *, with_binding: bool) -> bridge_pb2.CacheableSession:
    """Message of an active session, as a sidecar caches it."""
    binding = active.session.binding
    return bridge_pb2.CacheableSession(
        session=session(active),
        binding=bridge_pb2.SessionBinding(
            client_ip=binding.client_ip,
            key=binding.key,
            device_fingerprint=binding.device_fingerprint,
            user_agent=binding.user_agent,
        )
        if with_binding
        else None,
        absolute_remaining=duration(active.absolute_remaining),
        idle_remaining=duration(active.idle_remaining),
        authentication_age=duration(active.authentication_age),
    )


def denial(reason: DenialReason) -> types_pb2.Denial:
    """Message of a denial."""
    return types_pb2.Denial(reason=types_pb2.DenialReason.ValueType(reason.value), message=DENIAL_TEXT[reason])


def session_summary(record: Session) -> session_pb2.SessionSummary:
    """One line of a list of sessions."""
    return session_pb2.SessionSummary(
        handle=record.handle,
        create_time=timestamp(record.created_at),
        last_seen_time=timestamp(record.last_seen_at),
        expire_time=timestamp(record.expires_at),
        client_ip=modes.unpack_ip(record.binding.client_ip),
        device_name=record.device_name,
    )


def bridge(record: Bridge, now: datetime) -> admin_pb2.Bridge:
    """Message of a bridge."""
    live = record.live_secrets(now)
    return admin_pb2.Bridge(
        id=record.id,
        name=record.name,
        scopes=[options_pb2.Scope.ValueType(scope.value) for scope in sorted(record.scopes)],
        create_time=timestamp(record.created_at),
        revoke_time=_maybe_timestamp(record.revoked_at),
        live_secrets=len(live),
        last_use_time=_maybe_timestamp(record.last_used_at),
        client_id=record.client_id,
        secrets=[
            admin_pb2.BridgeSecret(
                create_time=timestamp(secret.created_at),
                expire_time=_maybe_timestamp(secret.expires_at),
                last_use_time=_maybe_timestamp(secret.last_used_at),
            )
            for secret in live
        ],
    )


def _maybe_timestamp(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    return None if moment is None else timestamp(moment)


def audit_event(record: AuditRecord) -> admin_pb2.AuditEvent:
    """Message of an audit event."""
    event = record.event
    message = admin_pb2.AuditEvent(
        sequence=record.sequence,
        time=timestamp(event.time),
        action=event.action,
        outcome=event.outcome,
        actor=event.actor,
        subject=event.subject,
        user_id=event.user_id,
        client_ip=event.client_ip,
        request_id=event.request_id,
        hash=record.hash,
    )
    if event.details:
        json_format.ParseDict(dict(event.details), message.details)
    return message


def sequence(position: tuple[str, ...] | None) -> int | None:
    """Sequence of a page token; INVALID_FIELD for one that is not ours."""
    if position is None:
        return None
    if not (position[0].isdecimal() and position[0].isascii() and len(position[0]) <= 18):
        fields = Fields()
        fields.add("page_token", "a token from the answer before, or empty")
        fields.refuse()
    return int(position[0])


_KEY_STATES = {
    KeyState.NEXT: admin_pb2.SIGNING_KEY_STATE_NEXT,
    KeyState.ACTIVE: admin_pb2.SIGNING_KEY_STATE_ACTIVE,
    KeyState.RETIRED: admin_pb2.SIGNING_KEY_STATE_RETIRED,
    KeyState.DESTROYED: admin_pb2.SIGNING_KEY_STATE_DESTROYED,
}


def signing_key(record: SigningKey, public_text: str) -> admin_pb2.SigningKey:
    """Message of a signing key, without its private part."""
    return admin_pb2.SigningKey(
        key_id=record.key_id,
        create_time=timestamp(record.created_at),
        retire_time=None if record.retired_at is None else timestamp(record.retired_at),
        state=_KEY_STATES[record.state],
        expire_time=None if record.expires_at is None else timestamp(record.expires_at),
        public_key=public_text,
    )


def page_token(*parts: str) -> str:
    """Opaque page token of the last item's position."""
    return base64.urlsafe_b64encode("\n".join(parts).encode()).decode() if parts else ""


def from_page_token(token: str, *, parts: int) -> tuple[str, ...] | None:
    """Position of a page token; `None` when there is none; INVALID_FIELD for one that is not ours."""
    if not token:
        return None
    try:
        found = tuple(base64.urlsafe_b64decode(token.encode("ascii")).decode("ascii").split("\n"))
    except ValueError:
        found = ()
    if len(found) != parts or len(token) > 256:
        fields = Fields()
        fields.add("page_token", "a token from the answer before, or empty")
        fields.refuse()
    return found


def replica(record: ReplicaRecord) -> admin_pb2.Replica:
    """Message of a replica with its watchers."""
    report = record.report
    return admin_pb2.Replica(
        id=report.id,
        name=report.name,
        revision=report.revision,
        doubted=record.doubted,
        watcher_count=report.watching,
        watchers=[
            admin_pb2.Watcher(
                bridge_id=watcher.bridge_id,
                instance=watcher.instance,
                applied_revision=watcher.applied_revision,
                lag=max(0, report.revision - watcher.applied_revision),
                silent_for=None if watcher.silent_for is None else duration(watcher.silent_for),
                max_staleness=duration(watcher.max_staleness),
                connected=watcher.connected,
                figures=None if watcher.figures is None else figures.to_message(watcher.figures),
            )
            for watcher in report.watchers
        ],
        reported_ago=None if record.reported_ago is None else duration(record.reported_ago),
    )
