"""One rule says whether a session is active; its order is what an operator decided, before mere expiry."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowless.domain.sessions import ActiveSession, SessionLimits, SessionRead, judge
from flowless.domain.users import UserStatus
from tests.support.stores import NOW, new_session, new_user
from trust_core.modes import DenialReason

LIMITS = SessionLimits(absolute=timedelta(hours=24), idle=timedelta(hours=1), per_user=100)
TICK = timedelta(microseconds=1)
USER = new_user()
SESSION = new_session(USER.id, expires_at=NOW + timedelta(hours=24))


@pytest.mark.parametrize(
    ("unknown", "disabled", "revoked", "old_epoch", "expired", "idle", "expected"),
    [
        (False, False, False, False, False, False, None),
        (False, False, False, False, False, True, DenialReason.IDLE),
        (False, False, False, False, True, False, DenialReason.EXPIRED),
        (False, False, False, False, True, True, DenialReason.EXPIRED),
        (False, False, False, True, False, False, DenialReason.REVOKED),
        (False, False, True, False, False, False, DenialReason.REVOKED),
        (False, False, True, True, True, True, DenialReason.REVOKED),
        (False, True, False, False, False, False, DenialReason.USER_DISABLED),
        (False, True, True, True, True, True, DenialReason.USER_DISABLED),
        (True, False, False, False, False, False, DenialReason.UNKNOWN),
        (True, True, True, True, True, True, DenialReason.UNKNOWN),
    ],
)
def test_the_gravest_reason_is_given(
    unknown: bool, disabled: bool, revoked: bool, old_epoch: bool, expired: bool, idle: bool,
    expected: DenialReason | None,
) -> None:  # fmt: skip
    read = SessionRead(
        revision=7,
        session=None
        if unknown
        else replace(
            SESSION,
            revoked_at=NOW if revoked else None,
            epoch=1 if old_epoch else 2,
            expires_at=NOW if expired else NOW + timedelta(hours=2),
            last_seen_at=NOW - LIMITS.idle if idle else NOW,
        ),
        user=replace(USER, status=UserStatus.DISABLED if disabled else UserStatus.ACTIVE),
        user_epoch=2,
    )
    judged = judge(read, now=NOW, limits=LIMITS)
    assert (None if isinstance(judged, ActiveSession) else judged) is expected


def test_a_session_whose_user_is_gone_is_unknown() -> None:
    read = SessionRead(revision=1, session=SESSION, user=None)
    assert judge(read, now=NOW, limits=LIMITS) is DenialReason.UNKNOWN


def test_an_epoch_from_the_future_is_no_better_than_one_from_the_past() -> None:
    read = SessionRead(revision=1, session=replace(SESSION, epoch=3), user=USER, user_epoch=2)
    assert judge(read, now=NOW, limits=LIMITS) is DenialReason.REVOKED


def _judge_after(idle: timedelta, *, expires: timedelta) -> ActiveSession | DenialReason:
    session = replace(SESSION, last_seen_at=NOW - idle, expires_at=NOW + expires)
    return judge(SessionRead(revision=1, session=session, user=USER, user_epoch=1), now=NOW, limits=LIMITS)


def test_the_last_moment_of_a_session_is_the_one_before_its_end() -> None:
    hour = timedelta(hours=1)
    assert isinstance(_judge_after(hour - TICK, expires=hour), ActiveSession)
    assert _judge_after(hour, expires=hour) is DenialReason.IDLE
    assert isinstance(_judge_after(timedelta(0), expires=TICK), ActiveSession)
    assert _judge_after(timedelta(0), expires=timedelta(0)) is DenialReason.EXPIRED


@given(
    idle=st.timedeltas(timedelta(hours=-2), timedelta(hours=2)),
    expires=st.timedeltas(timedelta(hours=-2), timedelta(hours=25)),
)
def test_an_active_session_has_time_left_and_idle_time_never_outlasts_the_session(
    idle: timedelta, expires: timedelta
) -> None:
    judged = _judge_after(idle, expires=expires)
    if isinstance(judged, ActiveSession):
        assert timedelta(0) < judged.idle_remaining <= judged.absolute_remaining == expires
        assert judged.idle_remaining == min(LIMITS.idle - idle, expires)
    else:
        assert judged is (DenialReason.EXPIRED if expires <= timedelta(0) else DenialReason.IDLE)
