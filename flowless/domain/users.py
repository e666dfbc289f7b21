"""Users: the record and the rules of its fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from flowless.domain.fields import Fields

EMAIL_BYTES: Final = 254
MAX_ROLES: Final = 64
ATTRIBUTES_BYTES: Final = 4096
ATTRIBUTES_DEPTH: Final = 16
"""Protobuf parsers stop at 100 nested messages, of which a Struct takes three a level: a user who could be
registered but not be read again would break every list and every validation."""

_USER_NAME: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{2,63}", re.ASCII)
_ROLE: Final = re.compile(r"[^\s,\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,64}")
_LOCALE: Final = re.compile(r"[0-9A-Za-z]{1,8}(-[0-9A-Za-z]{1,8})*", re.ASCII)


class UserStatus(StrEnum):
    """Whether a user may have sessions."""

    ACTIVE = "active"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a deployment may change of a user at any time; part of every session's payload."""

    user_name: str = ""
    name: str = ""
    last_name: str = ""
    phone: str = ""
    picture_url: str = ""
    user_type: str = ""
    locale: str = ""
    roles: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person or machine that can log in. `privilege_revision` is where in the log the roles changed last."""

    id: str
    email: str
    email_verified: bool
    status: UserStatus
    profile: Profile
    created_at: datetime
    updated_at: datetime
    privilege_revision: int = 0


PROFILE_FIELDS: Final = tuple(Profile.__dataclass_fields__)


def checked_profile(profile: Profile, fields: Fields, *, only: frozenset[str] = frozenset(PROFILE_FIELDS)) -> Profile:
    """Note violations of the named fields and return the profile with roles sorted and without repeats."""
    limits = {"name": 128, "last_name": 128, "phone": 32, "user_type": 64, "locale": 35, "picture_url": 2048}
    for name, most in limits.items():
        if name in only:
            fields.text(name, getattr(profile, name), most=most)
    if "user_name" in only and profile.user_name:
        fields.matching(
            "user_name",
            profile.user_name,
            _USER_NAME,
            "3 to 64 letters, digits, '.', '_', '-', beginning with no mark",
        )
    if "locale" in only and profile.locale:
        fields.matching("locale", profile.locale, _LOCALE, "a BCP 47 language tag such as 'en' or 'pt-BR'")
    if "picture_url" in only and profile.picture_url and not profile.picture_url.startswith("https://"):
        fields.add("picture_url", "an https URL")
    if "roles" in only:
        fields.size("roles", profile.roles, most=MAX_ROLES)
        for role in profile.roles[: MAX_ROLES + 1]:
            fields.matching(
                "roles", role, _ROLE, "each 1 to 64 characters without spaces, commas or control characters"
            )
    if "attributes" in only:
        fields.json_object("attributes", profile.attributes, most=ATTRIBUTES_BYTES, deepest=ATTRIBUTES_DEPTH)
    return replace(profile, roles=tuple(sorted(set(profile.roles))))


def canonical_user_name(user_name: str) -> str:
    """Form in which user names are compared: user names are ASCII, compared without case."""
    return user_name.lower()
