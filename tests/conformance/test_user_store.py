"""What every store of users does."""

import asyncio
from dataclasses import replace

import pytest

from flowless.domain.sessions import KeptSession
from flowless.domain.users import PROFILE_FIELDS, Profile, UserStatus
from flowless.ports.stores import NewUser
from tests.support.stores import HASH, NOW, SECOND, Stores, new_user
from trust_core.errors import Reason, TrustError
from trust_core.identifiers import digest

NOBODY = new_user()


async def test_a_user_is_read_as_it_was_added(stores: Stores) -> None:
    user = await stores.add_user("Ada@Example.org", user_name="Ada.L")
    assert await stores.users.get(user.id) == user
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert (found.user, found.password_hash) == (user, HASH)


async def test_a_user_is_found_by_the_canonical_forms_of_email_and_user_name(stores: Stores) -> None:
    user = await stores.add_user("Ada@Example.org", user_name="Ada.L")
    by_id = await stores.users.credentials(user.id)
    assert by_id is not None
    assert await stores.users.credentials_by_email("ada@example.org") == by_id
    assert await stores.users.credentials_by_user_name("ada.l") == by_id


async def test_the_forms_as_given_find_nobody(stores: Stores) -> None:
    await stores.add_user("Ada@Example.org", user_name="Ada.L")
    assert await stores.users.credentials_by_email("Ada@Example.org") is None
    assert await stores.users.credentials_by_user_name("Ada.L") is None


@pytest.mark.parametrize("text", ["", "%", "_", "*", "ada\0", "' OR 1=1 --", "ключ", "x" * 10_000])
async def test_a_name_that_nobody_has_finds_nobody(stores: Stores, text: str) -> None:
    await stores.add_user("ada@example.org", user_name="ada")
    assert await stores.users.get(text) is None
    assert await stores.users.credentials(text) is None
    assert await stores.users.credentials_by_email(text) is None
    assert await stores.users.credentials_by_user_name(text) is None


async def test_users_without_a_user_name_are_not_found_by_the_empty_one(stores: Stores) -> None:
    await stores.add_user()
    await stores.add_user()
    assert await stores.users.credentials_by_user_name("") is None


async def test_an_email_address_belongs_to_one_user(stores: Stores) -> None:
    await stores.add_user("ada@example.org")
    with pytest.raises(TrustError) as caught:
        await stores.add_user("ADA@example.org")
    assert caught.value.reason is Reason.EMAIL_TAKEN


async def test_a_user_name_belongs_to_one_user_whatever_its_case(stores: Stores) -> None:
    await stores.add_user(user_name="Ada")
    with pytest.raises(TrustError) as caught:
        await stores.add_user(user_name="aDA")
    assert caught.value.reason is Reason.USER_NAME_TAKEN


async def test_a_user_with_both_names_taken_is_told_of_the_email_address(stores: Stores) -> None:
    await stores.add_user("ada@example.org", user_name="ada")
    with pytest.raises(TrustError) as caught:
        await stores.add_user("ada@example.org", user_name="ada")
    assert caught.value.reason is Reason.EMAIL_TAKEN


async def test_a_user_that_is_refused_leaves_nothing_behind(stores: Stores) -> None:
    kept = await stores.add_user(user_name="ada")
    refused = new_user(user_name="ada")
    with pytest.raises(TrustError):
        await stores.users.add(NewUser(user=refused, canonical_email=refused.email, password_hash=HASH))
    assert await stores.users.get(refused.id) is None
    assert await stores.users.list(after="", limit=10) == [kept]


async def test_of_many_who_register_one_email_address_at_once_exactly_one_gets_it(stores: Stores) -> None:
    results = await asyncio.gather(*(stores.add_user("ada@example.org") for _ in range(8)), return_exceptions=True)
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 7
    assert {error.reason for error in refused if isinstance(error, TrustError)} == {Reason.EMAIL_TAKEN}
    assert len(await stores.users.list(after="", limit=10)) == 1


async def test_a_new_user_concerns_no_cached_session_and_writes_no_row(stores: Stores) -> None:
    _, rows = await stores.written_by(stores.add_user())
    assert rows == []


async def test_users_are_listed_by_id_a_page_at_a_time(stores: Stores) -> None:
    users = sorted([await stores.add_user() for _ in range(5)], key=lambda user: user.id)
    first = list(await stores.users.list(after="", limit=2))
    second = list(await stores.users.list(after=first[-1].id, limit=2))
    third = list(await stores.users.list(after=second[-1].id, limit=2))
    assert first + second + third == users
    assert await stores.users.list(after=users[-1].id, limit=2) == []


async def test_paging_goes_on_after_a_user_that_was_deleted_meanwhile(stores: Stores) -> None:
    users = sorted([await stores.add_user() for _ in range(3)], key=lambda user: user.id)
    await stores.users.delete(users[0].id, now=NOW)
    assert await stores.users.list(after=users[0].id, limit=10) == users[1:]


CHANGED = Profile(
    user_name="Grace",
    name="Grace",
    last_name="Hopper",
    phone="+1 2",
    picture_url="https://example.org/grace.png",
    user_type="robot",
    locale="en-US",
    roles=("rear-admiral",),
    attributes={"bug": "moth"},
)


@pytest.mark.parametrize("field", PROFILE_FIELDS)
async def test_an_update_changes_the_named_field_and_leaves_the_others(stores: Stores, field: str) -> None:
    before = await stores.add_user(user_name="ada")
    result, rows = await stores.written_by(
        stores.users.update(before.id, CHANGED, frozenset({field}), now=NOW + SECOND)
    )
    assert result is not None
    after, revision = result
    assert after.profile == replace(before.profile, **{field: getattr(CHANGED, field)})
    assert (after.updated_at, after.created_at) == (NOW + SECOND, NOW)
    assert await stores.users.get(before.id) == after
    assert rows == [("user", before.id)]
    assert revision == await stores.end()


async def test_a_user_name_that_was_given_up_is_free(stores: Stores) -> None:
    user = await stores.add_user(user_name="ada")
    await stores.users.update(user.id, Profile(), frozenset({"user_name"}), now=NOW)
    assert await stores.users.credentials_by_user_name("ada") is None
    other = await stores.add_user(user_name="ADA")
    found = await stores.users.credentials_by_user_name("ada")
    assert found is not None
    assert found.user == other


async def test_an_update_to_a_taken_user_name_is_refused_and_changes_nothing(stores: Stores) -> None:
    await stores.add_user(user_name="grace")
    ada = await stores.add_user(user_name="ada")
    end = await stores.end()
    with pytest.raises(TrustError) as caught:
        await stores.users.update(ada.id, CHANGED, frozenset(PROFILE_FIELDS), now=NOW)
    assert caught.value.reason is Reason.USER_NAME_TAKEN
    assert await stores.users.get(ada.id) == ada
    assert await stores.end() == end


async def test_a_user_may_change_the_case_of_its_own_user_name(stores: Stores) -> None:
    user = await stores.add_user(user_name="ada")
    result = await stores.users.update(user.id, Profile(user_name="ADA"), frozenset({"user_name"}), now=NOW)
    assert result is not None
    assert result[0].profile.user_name == "ADA"


async def test_an_update_keeps_the_sessions(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    await stores.users.update(user.id, CHANGED, frozenset(PROFILE_FIELDS), now=NOW)
    assert await stores.is_live(session)


async def test_disabling_revokes_all_sessions_and_writes_one_row(stores: Stores) -> None:
    user = await stores.add_user()
    sessions = [await stores.add_session(user) for _ in range(3)]
    other = await stores.add_session(await stores.add_user())
    revision, rows = await stores.written_by(stores.users.set_status(user.id, UserStatus.DISABLED, now=NOW + SECOND))
    assert [await stores.is_live(session) for session in sessions] == [False] * 3
    assert await stores.is_live(other)
    assert rows == [("user", user.id)]
    assert revision == await stores.end()
    disabled = await stores.users.get(user.id)
    assert disabled is not None
    assert (disabled.status, disabled.updated_at) == (UserStatus.DISABLED, NOW + SECOND)


async def test_sessions_from_before_the_disabling_stay_revoked_when_the_user_is_enabled(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    await stores.users.set_status(user.id, UserStatus.DISABLED, now=NOW)
    _, rows = await stores.written_by(stores.users.set_status(user.id, UserStatus.ACTIVE, now=NOW))
    assert rows == [("user", user.id)]
    assert not await stores.is_live(session)
    assert await stores.is_live(await stores.add_session(user))


@pytest.mark.parametrize("status", list(UserStatus))
async def test_a_status_that_is_set_already_writes_no_row(stores: Stores, status: UserStatus) -> None:
    user = await stores.add_user()
    await stores.users.set_status(user.id, status, now=NOW)
    end = await stores.end()
    revision, rows = await stores.written_by(stores.users.set_status(user.id, status, now=NOW + SECOND))
    assert (revision, rows) == (end, [])


async def test_what_concerns_nobody_answers_none(stores: Stores) -> None:
    end = await stores.end()
    assert await stores.users.update(NOBODY.id, CHANGED, frozenset({"name"}), now=NOW) is None
    assert await stores.users.set_status(NOBODY.id, UserStatus.DISABLED, now=NOW) is None
    changed = stores.users.set_password(NOBODY.id, expected_hash=HASH, new_hash="new", now=NOW)
    assert await changed is None
    await stores.users.upgrade_hash(NOBODY.id, expected_hash=HASH, new_hash="new")
    assert await stores.end() == end


async def test_deleting_erases_the_user_with_all_sessions(stores: Stores) -> None:
    user = await stores.add_user("ada@example.org", user_name="ada")
    session = await stores.add_session(user)
    revision, rows = await stores.written_by(stores.users.delete(user.id, now=NOW))
    assert rows == [("user", user.id)]
    assert revision == await stores.end()
    assert await stores.users.get(user.id) is None
    read = await stores.sessions.read(session.digest)
    assert (read.session, read.user, read.revision) == (None, None, revision)


async def test_deleting_again_writes_no_row(stores: Stores) -> None:
    user = await stores.add_user()
    first = await stores.users.delete(user.id, now=NOW)
    assert await stores.written_by(stores.users.delete(user.id, now=NOW)) == (first, [])


async def test_the_names_of_a_deleted_user_are_free(stores: Stores) -> None:
    user = await stores.add_user("ada@example.org", user_name="ada")
    await stores.users.delete(user.id, now=NOW)
    await stores.add_user("ada@example.org", user_name="ada")


async def test_a_new_password_revokes_all_sessions_but_the_named_one(stores: Stores) -> None:
    user = await stores.add_user()
    kept, lost = await stores.add_session(user), await stores.add_session(user)
    renewed = replace(kept, digest=digest("renewed"))
    changed, rows = await stores.written_by(
        stores.users.set_password(
            user.id,
            expected_hash=HASH,
            new_hash="new",
            kept=KeptSession(digest=kept.digest, new_digest=renewed.digest),
            now=NOW + SECOND,
        )
    )
    assert rows == [("user", user.id)]
    assert changed == (await stores.end(), True)
    assert [await stores.is_live(session) for session in (renewed, kept, lost)] == [True, False, False]
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert (found.password_hash, found.user.updated_at) == ("new", NOW + SECOND)


async def test_a_password_that_changed_meanwhile_is_not_replaced(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    end = await stores.end()
    changed = stores.users.set_password(user.id, expected_hash="stale", new_hash="new", now=NOW)
    assert await changed is None
    assert await stores.end() == end
    assert await stores.is_live(session)


async def test_of_many_who_replace_one_password_at_once_exactly_one_wins(stores: Stores) -> None:
    user = await stores.add_user()
    results = await asyncio.gather(
        *(stores.users.set_password(user.id, expected_hash=HASH, new_hash=f"new{n}", now=NOW) for n in range(8))
    )
    assert sum(result is not None for result in results) == 1
    assert len(await stores.rows()) == 1


async def test_a_better_hash_of_the_same_password_revokes_nothing_and_writes_no_row(stores: Stores) -> None:
    user = await stores.add_user()
    session = await stores.add_session(user)
    _, rows = await stores.written_by(stores.users.upgrade_hash(user.id, expected_hash=HASH, new_hash="better"))
    assert rows == []
    assert await stores.is_live(session)
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert found.password_hash == "better"


async def test_a_better_hash_does_not_undo_a_password_that_changed_meanwhile(stores: Stores) -> None:
    user = await stores.add_user()
    await stores.users.set_password(user.id, expected_hash=HASH, new_hash="new", now=NOW)
    await stores.users.upgrade_hash(user.id, expected_hash=HASH, new_hash="better")
    found = await stores.users.credentials(user.id)
    assert found is not None
    assert found.password_hash == "new"


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"": ""},
        {"a": {"b": {"c": [[], {}, [None]]}}},
        {"unicode": "\u2028 ’ 🗝 \u007f"},
        {"numbers": [0, -1, 2**53, 1e-300, 1.5]},
        {"quotes": "'\";--"},
    ],
)
async def test_attributes_come_back_as_they_were_given(stores: Stores, attributes: dict[str, object]) -> None:
    user = await stores.add_user()
    result = await stores.users.update(user.id, Profile(attributes=attributes), frozenset({"attributes"}), now=NOW)
    assert result is not None
    read = await stores.users.get(user.id)
    assert read is not None
    assert read.profile.attributes == attributes


async def test_of_many_users_each_is_told_what_became_of_it(stores: Stores) -> None:
    here = await stores.add_user(user_name="taken")
    wanted = [
        new_user("a@example.org"),
        new_user(here.email),
        new_user("b@example.org", user_name="TAKEN"),
        new_user("a@example.org"),
        new_user("c@example.org", user_name="fresh"),
        new_user("d@example.org", user_name="Fresh"),
    ]
    new = [NewUser(user=user, canonical_email=user.email.casefold(), password_hash="") for user in wanted]
    found = await stores.users.add_many(new)
    assert [addition.value for addition in found] == [
        "added",
        "present",
        "user_name_taken",
        "present",
        "added",
        "user_name_taken",
    ]
    assert {user.id for user in await stores.users.list(after="", limit=100)} == {here.id, wanted[0].id, wanted[4].id}
