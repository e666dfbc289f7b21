"""Trust tokens and the keys that sign them, in every store."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flowless.adapters.sql.schema import audit_events, outbox, trust_tokens, users
from flowless.domain.audit import Action
from flowless.domain.mail import OutgoingMail
from flowless.domain.signing_keys import KeyState, SigningKey
from flowless.domain.trust_tokens import Redemption, TrustToken
from flowless.domain.users import User, UserStatus
from flowless.ports.stores import NewUser, SessionRoom
from tests.support.stores import BY, HASH, HOUR, NOW, SECOND, Stores, new_bridge, new_session, new_user
from trust_core.errors import Reason, TrustError

EVENT = BY.event(Action.TOKEN_ISSUE, now=NOW)
ROOM = SessionRoom(most=10, seen_after=NOW - HOUR)
_jti = itertools.count(1)


def _key(number: int, state: KeyState = KeyState.NEXT) -> SigningKey:
    return SigningKey(
        key_id=f"k4.pid.{number}", public_key=bytes([number]) * 32, wrapped="wrapped", state=state, created_at=NOW
    )


async def _rotate(stores: Stores, *numbers: int, overlap: timedelta = HOUR) -> SigningKey:
    first, second = (_key(number) for number in numbers)
    return await stores.signing_keys.rotate((first, second), overlap_until=NOW + overlap, now=NOW, event=EVENT)


async def _issue(
    stores: Stores, user: User | None, *, mail: tuple[OutgoingMail, ...] = (), **changes: Any
) -> TrustToken:
    if not await stores.signing_keys.list():
        await _rotate(stores, 1, 2)
    email = "invited@example.org" if user is None else user.email
    found = None if user is None else await stores.users.credentials(user.id)
    token = TrustToken(
        jti=f"{next(_jti):032x}",
        purpose="magic_link",
        audience="shop",
        user_id=None if user is None else user.id,
        email=email,
        canonical_email=email,
        key_id="k4.pid.2",
        bridge_id="bridge",
        created_at=NOW,
        expires_at=NOW + HOUR,
        token_epoch=0 if found is None else found.token_epoch,
    )
    token = replace(token, **changes)
    assert await stores.tokens.issue(token, mail=mail, event=EVENT)
    return token


def _of(token: TrustToken) -> Redemption:
    return Redemption(jti=token.jti, purpose=token.purpose, audience=token.audience)


async def _is_good(stores: Stores, token: TrustToken) -> bool:
    return await stores.tokens.find_good(_of(token), now=NOW) is not None


async def _consume(stores: Stores, redemption: Redemption) -> bool:
    return await stores.tokens.consume(redemption, now=NOW, event=EVENT) is not None


async def test_a_token_is_read_as_it_was_issued_and_spent_once(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user(), data={"next": ["/a", 1]})
    assert await stores.tokens.find_good(_of(token), now=NOW) == token
    assert await stores.tokens.get(token.jti, now=NOW) == token
    redeemed = await stores.tokens.consume(_of(token), now=NOW, event=EVENT)
    assert redeemed is not None
    assert redeemed.token == token
    assert not await _is_good(stores, token)
    assert await stores.tokens.get(token.jti, now=NOW) is None
    assert not await _consume(stores, _of(token))


async def test_of_many_who_redeem_at_once_exactly_one_wins(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user())
    won = await asyncio.gather(*(_consume(stores, _of(token)) for _ in range(12)))
    assert sum(won) == 1


@pytest.mark.parametrize("changes", [{"purpose": "password_reset"}, {"audience": "blog"}, {"jti": "0" * 32}])
async def test_a_token_is_spent_for_its_own_purpose_and_audience_only(
    stores: Stores, changes: dict[str, str]
) -> None:
    token = await _issue(stores, await stores.add_user())
    assert not await _consume(stores, replace(_of(token), **changes))
    assert await _consume(stores, _of(token))


async def _disable(stores: Stores, user: User) -> None:
    await stores.users.set_status(user.id, UserStatus.DISABLED, now=NOW)


async def _disable_and_enable(stores: Stores, user: User) -> None:
    await _disable(stores, user)
    await stores.users.set_status(user.id, UserStatus.ACTIVE, now=NOW)


async def _new_password(stores: Stores, user: User) -> None:
    assert await stores.users.set_password(user.id, expected_hash=HASH, new_hash="new", now=NOW) is not None


async def _reset(stores: Stores, user: User) -> None:
    token = await _issue(stores, user, purpose="password_reset")
    assert await stores.tokens.reset_password(_of(token), new_hash="new", now=NOW, event=EVENT) is not None


async def _new_address(stores: Stores, user: User) -> None:
    token = await _issue(stores, user, purpose="email_change", email="new@example.org")
    assert await stores.tokens.change_email(_of(token), notice=None, now=NOW, event=EVENT) is not None


async def _newer(stores: Stores, user: User) -> None:
    await _issue(stores, user)


async def _revoke(stores: Stores, user: User) -> None:
    await stores.tokens.revoke("magic_link", user_id=user.id, canonical_email="", now=NOW, event=EVENT)


async def _delete(stores: Stores, user: User) -> None:
    await stores.users.delete(user.id, now=NOW)


@pytest.mark.parametrize(
    "change",
    [_disable, _disable_and_enable, _new_password, _reset, _new_address, _newer, _revoke, _delete],
    ids=lambda change: change.__name__.strip("_"),
)
async def test_what_voids_a_token(stores: Stores, change: Callable[[Stores, User], Awaitable[None]]) -> None:
    user, other = await stores.add_user(), await stores.add_user()
    token, of_other = await _issue(stores, user), await _issue(stores, other)
    await change(stores, user)
    assert not await _is_good(stores, token)
    assert not await _consume(stores, _of(token))
    assert await _consume(stores, _of(of_other))


async def test_a_newer_token_of_another_purpose_voids_nothing(stores: Stores) -> None:
    user = await stores.add_user()
    token = await _issue(stores, user)
    await _issue(stores, user, purpose="password_reset")
    assert await _is_good(stores, token)


async def test_a_newer_invitation_of_an_address_voids_the_one_before(stores: Stores) -> None:
    first = await _issue(stores, None, purpose="invitation")
    other = await _issue(stores, None, purpose="invitation", canonical_email="other@example.org")
    await _issue(stores, None, purpose="invitation")
    assert [await _is_good(stores, token) for token in (first, other)] == [False, True]


async def test_what_was_asked_for_before_a_change_of_password_or_address_is_void_from_birth(stores: Stores) -> None:
    """The user is looked up, then the change commits, then the token is stored."""
    for change in (_new_password, _reset, _new_address):
        user = await stores.add_user()
        before = await stores.users.credentials(user.id)
        assert before is not None
        await change(stores, user)
        late = await _issue(stores, user, purpose="password_reset", token_epoch=before.token_epoch)
        assert not await _is_good(stores, late)
        await stores.users.delete(user.id, now=NOW)


async def test_invitations_of_one_address_at_once_leave_one_good(stores: Stores) -> None:
    await _issue(stores, None, purpose="invitation", canonical_email="first@example.org")
    for number in range(5):
        email = f"at-once-{number}@example.org"
        tokens = await asyncio.gather(
            *(_issue(stores, None, purpose="invitation", email=email, canonical_email=email) for _ in range(4))
        )
        assert sum([await _is_good(stores, token) for token in tokens]) == 1


@pytest.mark.parametrize("supersede", [True, False])
async def test_tokens_of_an_address_from_before_it_had_a_user_are_voided_with_the_users(
    stores: Stores, supersede: bool
) -> None:
    before = await _issue(
        stores, None, purpose="unsubscribe", email="bob@example.org", canonical_email="bob@example.org"
    )
    bob = await stores.add_user("bob@example.org")
    if supersede:
        await _issue(stores, bob, purpose="unsubscribe")
    else:
        await stores.tokens.revoke(
            "unsubscribe", user_id=bob.id, canonical_email="bob@example.org", now=NOW, event=EVENT
        )
    assert not await _is_good(stores, before)


async def test_a_revoked_bridges_tokens_are_void(stores: Stores) -> None:
    bridge, other = new_bridge("shop"), new_bridge("blog")
    for each in (bridge, other):
        await stores.bridges.add(each)
    user = await stores.add_user()
    mine = await _issue(stores, user, bridge_id=bridge.id)
    theirs = await _issue(stores, user, purpose="password_reset", bridge_id=other.id)
    await stores.bridges.revoke(bridge.id, now=NOW)
    assert [await _is_good(stores, token) for token in (mine, theirs)] == [False, True]


async def test_a_key_that_signs_no_more_issues_nothing(stores: Stores) -> None:
    user = await stores.add_user()
    kept = await _issue(stores, user)
    await _rotate(stores, 3, 4)
    late = replace(kept, jti=f"{next(_jti):032x}")
    assert not await stores.tokens.issue(late, mail=(), event=EVENT)
    assert await _is_good(stores, kept)


async def test_deleting_a_user_leaves_the_address_nowhere(stores: Stores) -> None:
    invited = await _issue(
        stores, None, purpose="invitation", email="gone@example.org", canonical_email="gone@example.org"
    )
    user = replace(new_user("gone@example.org"), email="gone@example.org")
    new = NewUser(user=user, canonical_email="gone@example.org", password_hash=HASH)
    assert await stores.tokens.add_user(_of(invited), new, event=EVENT) is not None
    notice = OutgoingMail(id="notice", template="email_changed", recipient="gone@example.org")
    await _issue(stores, user, mail=(notice,))
    await stores.users.delete(user.id, now=NOW)
    for table in (trust_tokens, outbox, users):
        assert "gone@example.org" not in str(await stores.database.fetch(sa.select(table)))


async def test_an_expired_token_is_not_good(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user(), expires_at=NOW)
    assert not await _is_good(stores, token)
    assert not await _consume(stores, _of(token))


async def test_a_token_that_is_void_from_the_start_looks_like_any_other_and_redeems_nothing(stores: Stores) -> None:
    mail = OutgoingMail(id="mail", template="magic_link", recipient="a@example.org", jti="0" * 32)
    notice = OutgoingMail(id="notice", template="email_change_notice", recipient="b@example.org")
    token = await _issue(stores, None, is_void=True, mail=(mail, notice))
    assert not await _consume(stores, _of(token))
    rows = await stores.database.fetch(sa.select(outbox.c.id, outbox.c.done_us, outbox.c.outcome))
    assert {row["id"]: (row["done_us"] is None, row["outcome"]) for row in rows} == {
        "mail": (False, "void"),
        "notice": (True, ""),
    }


async def test_a_token_of_a_key_that_does_not_verify_any_more_is_not_good(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user())
    await _rotate(stores, 3, 4, overlap=HOUR)
    assert await _is_good(stores, token)
    await stores.signing_keys.destroy("k4.pid.2", event=EVENT)
    assert not await _is_good(stores, token)
    assert not await _consume(stores, _of(token))


async def test_a_token_of_a_retired_key_is_good_until_the_overlap_ends(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user(), expires_at=NOW + 9 * HOUR)
    await _rotate(stores, 3, 4, overlap=HOUR)
    assert await stores.tokens.find_good(_of(token), now=NOW + HOUR - SECOND) is not None
    assert await stores.tokens.find_good(_of(token), now=NOW + HOUR) is None


# --- effects ----------------------------------------------------------------------------------------------------


async def test_verifying_an_address_changes_the_user_and_writes_the_log(stores: Stores) -> None:
    user = await stores.add_user()
    token = await _issue(stores, user, purpose="email_verify")
    redeemed, rows = await stores.written_by(stores.tokens.verify_email(_of(token), now=NOW, event=EVENT))
    assert rows == [("user", user.id)]
    assert redeemed.revision == await stores.end()
    found = await stores.users.get(user.id)
    assert found is not None
    assert found.email_verified


async def test_an_address_that_is_not_the_users_any_more_is_not_verified_and_spends_nothing(stores: Stores) -> None:
    user = await stores.add_user()
    token = await _issue(stores, user, purpose="email_verify", canonical_email="another@example.org")
    assert await stores.tokens.verify_email(_of(token), now=NOW, event=EVENT) is None
    assert await _is_good(stores, token)


async def test_a_reset_replaces_the_hash_and_ends_every_session(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(2)]
    token = await _issue(stores, user, purpose="password_reset")
    redeemed, rows = await stores.written_by(
        stores.tokens.reset_password(_of(token), new_hash="new", now=NOW, event=EVENT)
    )
    assert rows == [("user", user.id)]
    assert redeemed.revision == await stores.end()
    assert [await stores.is_live(session) for session in sessions] == [False, False]
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert found.password_hash == "new"


async def test_a_magic_link_begins_one_session_and_verifies_the_address(stores: Stores) -> None:
    user = await stores.add_user()
    token = await _issue(stores, user)
    sessions = [new_session(user.id) for _ in range(8)]
    results = await asyncio.gather(
        *(stores.tokens.log_in(_of(token), session, room=ROOM, event=EVENT) for session in sessions)
    )
    begun = [result for result in results if result is not None]
    assert len(begun) == 1
    session, shown = begun[0]
    assert shown.email_verified
    read = await stores.sessions.read(session.digest)
    assert read.user is not None
    assert read.user.email_verified
    assert [await stores.is_live(each) for each in sessions].count(True) == 1
    assert session.digest in {each.digest for each in sessions}


async def test_who_proves_an_address_first_takes_the_account_over_from_whoever_registered_it(stores: Stores) -> None:
    user = await stores.add_user()
    theirs = await stores.add_session(user)
    pending = await _issue(stores, user, purpose="email_change", email="evil@example.org")
    token = await _issue(stores, user)
    result = await stores.tokens.log_in(_of(token), new_session(user.id), room=ROOM, event=EVENT)
    assert result is not None
    assert await stores.is_live(result[0])
    assert not await stores.is_live(theirs)
    assert not await _is_good(stores, pending)
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert found.password_hash == ""
    again = await _issue(stores, user)
    await stores.users.set_password(user.id, expected_hash="", new_hash="own", now=NOW)
    later = await _issue(stores, user)
    begun = await stores.tokens.log_in(_of(later), new_session(user.id, epoch=3), room=ROOM, event=EVENT)
    assert begun is not None, "a proven address takes nothing over a second time"
    assert (await stores.users.credentials(user.id) or found).password_hash == "own"
    assert not await _is_good(stores, again)


async def test_a_magic_link_whose_users_sessions_were_revoked_meanwhile_begins_none_and_stays_good(
    stores: Stores,
) -> None:
    user = await stores.add_user()
    token = await _issue(stores, user)
    session = new_session(user.id)
    await stores.sessions.revoke_user(user.id, except_handle="", now=NOW)
    assert await stores.tokens.log_in(_of(token), session, room=ROOM, event=EVENT) is None
    assert await _is_good(stores, token)
    assert (await stores.sessions.read(session.digest)).session is None


async def test_an_invitation_adds_one_user(stores: Stores) -> None:
    token = await _issue(stores, None, purpose="invitation")

    async def accept() -> bool:
        new = NewUser(user=new_user(token.email), canonical_email=token.canonical_email, password_hash=HASH)
        try:
            return await stores.tokens.add_user(_of(token), new, event=EVENT) is not None
        except TrustError as error:
            assert error.reason is Reason.EMAIL_TAKEN
            return False

    assert sum(await asyncio.gather(*(accept() for _ in range(8)))) == 1


async def test_an_invitation_stays_good_when_a_name_is_taken(stores: Stores) -> None:
    await stores.add_user(user_name="taken")
    token = await _issue(stores, None, purpose="invitation")
    new = NewUser(
        user=new_user(token.email, user_name="taken"), canonical_email=token.canonical_email, password_hash=HASH
    )
    with pytest.raises(TrustError) as caught:
        await stores.tokens.add_user(_of(token), new, event=EVENT)
    assert caught.value.reason is Reason.USER_NAME_TAKEN
    assert await _is_good(stores, token)


async def test_a_changed_address_is_the_users_and_the_old_one_is_told(stores: Stores) -> None:
    user = await stores.add_user()
    token = await _issue(
        stores, user, purpose="email_change", email="New@example.org", canonical_email="new@example.org"
    )
    notice = OutgoingMail(id="notice", template="email_changed", recipient="")
    changed, rows = await stores.written_by(
        stores.tokens.change_email(_of(token), notice=notice, now=NOW, event=EVENT)
    )
    shown, revision = changed
    assert (shown.email, shown.email_verified) == ("New@example.org", True)
    assert (rows, revision) == ([("user", user.id)], await stores.end())
    assert (await stores.users.credentials_by_email("new@example.org")) is not None
    assert (await stores.users.credentials_by_email(user.email)) is None
    (mail,) = await stores.database.fetch(sa.select(outbox.c.recipient))
    assert mail["recipient"] == user.email


async def test_an_address_that_another_user_took_meanwhile_changes_nothing(stores: Stores) -> None:
    user, other = await stores.add_user(), await stores.add_user()
    token = await _issue(
        stores, user, purpose="email_change", email=other.email, canonical_email=other.email.casefold()
    )
    assert await stores.tokens.change_email(_of(token), notice=None, now=NOW, event=EVENT) is None
    found = await stores.users.get(user.id)
    assert found is not None
    assert found.email == user.email


async def test_a_change_of_password_and_a_redemption_at_once_never_both_count(stores: Stores) -> None:
    """Either the link was redeemed first, and its session ended with the change, or it is void."""
    for _ in range(5):
        user = await stores.add_user()
        proof = await _issue(stores, user, purpose="email_verify")
        await stores.tokens.verify_email(_of(proof), now=NOW, event=EVENT)
        token = await _issue(stores, user)
        session = new_session(user.id)
        await asyncio.gather(
            stores.tokens.log_in(_of(token), session, room=ROOM, event=EVENT),
            stores.users.set_password(user.id, expected_hash=HASH, new_hash="new", now=NOW),
        )
        assert not await stores.is_live(session)


async def test_who_spends_nothing_leaves_no_event(stores: Stores) -> None:
    token = await _issue(stores, await stores.add_user())
    await _consume(stores, _of(token))
    before = await stores.database.fetch(sa.select(sa.func.count()).select_from(audit_events))
    await _consume(stores, _of(token))
    assert await stores.database.fetch(sa.select(sa.func.count()).select_from(audit_events)) == before


# --- keys -------------------------------------------------------------------------------------------------------


async def _states(stores: Stores) -> dict[str, str]:
    return {key.key_id.removeprefix("k4.pid."): key.state.value for key in await stores.signing_keys.list()}


async def test_rotating_moves_each_key_on(stores: Stores) -> None:
    assert (await _rotate(stores, 1, 2)).key_id == "k4.pid.2"
    assert await _states(stores) == {"1": "next", "2": "active"}
    assert (await _rotate(stores, 3, 4)).key_id == "k4.pid.1"
    assert await _states(stores) == {"1": "active", "2": "retired", "3": "next"}


async def test_rotations_at_once_leave_one_active_and_one_next_key(stores: Stores) -> None:
    await _rotate(stores, 1, 2)
    await asyncio.gather(*(_rotate(stores, number, number + 1) for number in range(3, 13, 2)))
    states = list((await _states(stores)).values())
    assert (states.count("active"), states.count("next"), states.count("retired")) == (1, 1, 5)


async def test_only_a_retired_key_is_destroyed_and_its_private_part_with_it(stores: Stores) -> None:
    await _rotate(stores, 1, 2)
    for key_id, reason in (
        ("k4.pid.1", Reason.SIGNING_KEY_IN_USE),
        ("k4.pid.2", Reason.SIGNING_KEY_IN_USE),
        ("k4.pid.9", Reason.SIGNING_KEY_NOT_FOUND),
        ("\0", Reason.SIGNING_KEY_NOT_FOUND),
    ):
        with pytest.raises(TrustError) as caught:
            await stores.signing_keys.destroy(key_id, event=EVENT)
        assert caught.value.reason is reason
    await _rotate(stores, 3, 4)
    for _ in range(2):
        await stores.signing_keys.destroy("k4.pid.2", event=EVENT)
    (destroyed,) = [key for key in await stores.signing_keys.list() if key.key_id == "k4.pid.2"]
    assert (destroyed.state, destroyed.wrapped) == (KeyState.DESTROYED, "")


async def test_a_private_part_is_replaced_only_where_it_is_as_expected(stores: Stores) -> None:
    await _rotate(stores, 1, 2)
    before = len(await stores.audit.after(0, limit=100))
    await stores.signing_keys.replace_wrapped("k4.pid.1", expected="another", wrapped="never", event=EVENT)
    await stores.signing_keys.replace_wrapped("k4.pid.2", expected="wrapped", wrapped="anew", event=EVENT)
    assert {key.wrapped for key in await stores.signing_keys.list()} == {"wrapped", "anew"}
    assert len(await stores.audit.after(0, limit=100)) - before == 1
