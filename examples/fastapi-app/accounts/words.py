"""What people are told: plain words for denials, errors and things done."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from trustlayer import DenialReason


@dataclass(frozen=True, slots=True)
class Why:
    """Heading and text of a page that says no. `again`: logging in (again) helps."""

    heading: str
    text: str
    again: bool = True


DENIALS: Final = {
    DenialReason.REVOKED: Why(
        "You were logged out",
        "You were logged out from another device, by a change of your password, or by an administrator.",
    ),
    DenialReason.EXPIRED: Why(
        "Your login has ended", "A login lasts a limited time, and yours is over. Please log in again."
    ),
    DenialReason.IDLE: Why(
        "Your login has ended", "You were away for a while, so you were logged out. Please log in again."
    ),
    DenialReason.USER_DISABLED: Why(
        "Your account is closed", "This account may not log in at the moment. Ask an administrator.", again=False
    ),
    DenialReason.IP_MISMATCH: Why(
        "Your address has changed",
        "You logged in from another network. Go back to it, or log in again from this one.",
    ),
    DenialReason.DEVICE_MISMATCH: Why(
        "This is another browser",
        "This page opens only in the browser in which you logged in. Log in again in this one.",
    ),
    DenialReason.CONTEXT_MISSING: Why(
        "Your browser is not known",
        "This page opens only in the browser in which you logged in, and yours sent nothing to know it by. Were "
        "cookies deleted? Log in again.",
    ),
    DenialReason.USER_AGENT_MISMATCH: Why(
        "Your browser has changed",
        "This page opens only in the browser in which you logged in. After an update of the browser, log in again.",
    ),
    DenialReason.AUTHENTICATION_TOO_OLD: Why(
        "Please log in again", "This page asks for a login that is not long ago."
    ),
    DenialReason.ROLE_MISSING: Why(
        "This page is for administrators", "You are logged in, but your account may not see this page.", again=False
    ),
}
OTHER_DENIAL: Final = Why("You are not logged in", "This login is not valid (any more). Please log in again.")
"""For malformed and unknown ids, and for reasons of a newer sidecar."""

UNAVAILABLE: Final = Why(
    "We cannot tell who you are at the moment",
    "The part of this service that knows who is logged in does not answer. Wait a few seconds and try again.",
    again=False,
)
NOT_CERTAIN: Final = Why(
    "We do not know whether this was done",
    "The part of this service that does it did not answer. Wait a few seconds, look whether it was done, and only "
    "then repeat it.",
    again=False,
)
"""When the answer to something that changes something did not come."""
BUSY: Final = Why("We are busy", "Too much is going on at once. Wait a few seconds and try again.", again=False)
OUR_FAULT: Final = Why("Something went wrong", "That was our fault. Nothing more is known of it here.", again=False)
NOTHING_HERE: Final = Why("There is nothing here", "The address is wrong, or what was here is gone.", again=False)

DONE: Final = {
    "device": "The device was logged out. It is refused from now on.",
    "device-soon": "The device was logged out. Within a few seconds it is refused everywhere.",
    "others": "All your other devices were logged out. They are refused from now on.",
    "others-soon": "All your other devices were logged out. Within a few seconds they are refused everywhere.",
    "gone": "That device was logged out already.",
}
"""By the name that stands in the address after something was done."""

FIELDS: Final = {
    "email": "Give an e-mail address, such as ada@example.org.",
    "name": "A name has at most 128 characters.",
    "device_name": "The name of a device has at most 128 characters.",
    "login": "Give an e-mail address or a user name.",
}
"""What to say of a field that Flowless refuses, where its own words are not for people."""

_BROWSERS: Final = (
    ("Edg/", "Edge"),
    ("OPR/", "Opera"),
    ("Firefox/", "Firefox"),
    ("Chrome/", "Chrome"),
    ("Safari/", "Safari"),
)
_SYSTEMS: Final = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("Mac OS X", "macOS"),
    ("CrOS", "ChromeOS"),
    ("Linux", "Linux"),
)


def device_name(user_agent: str) -> str:
    """Guess what to call a device: only so that its owner knows it again, nothing depends on it."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "Browser")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    return f"{browser} on {system}" if system else browser


def ago(then: datetime, now: datetime) -> str:
    """Say how long ago something was, to what is worth knowing. Without a time zone, which a server does not know."""
    seconds = (now - then).total_seconds()
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'' if count == 1 else 's'} ago"
    return "less than a minute ago"


def exact(then: datetime) -> str:
    """Say when something was, in UTC."""
    return then.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
