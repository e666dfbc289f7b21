"""What a replica believes of an entry that somebody else wrote."""

from hypothesis import given
from hypothesis import strategies as st

from flowless.domain.revocations import LogHead, Revocation, Subject
from flowless.services.recent_revocations import RecentRevocations
from tests.support.scripted_log import ScriptedLog

DIGESTS = [bytes([n]) * 32 for n in range(3)]
USERS = ["u0", "u1", "u2"]
TARGETS: list[tuple[Subject, str]] = [*(("session", d.hex()) for d in DIGESTS), *(("user", u) for u in USERS)]


@given(rows=st.lists(st.sampled_from(TARGETS), max_size=40), remembered=st.integers(1, 12), loaded=st.integers(0, 40))
async def test_nothing_is_believed_that_a_later_revocation_touches(
    rows: list[tuple[Subject, str]], remembered: int, loaded: int
) -> None:
    log = ScriptedLog()
    for subject, key in rows[:loaded]:
        log.append(subject, key)
    recent = RecentRevocations(remembered=remembered)
    await recent.load(log, await log.head())
    for number, (subject, key) in enumerate(rows[loaded:], start=len(rows[:loaded]) + 1):
        recent.on_revocation(Revocation(revision=number, subject=subject, key=key))
    for digest in DIGESTS:
        for user in USERS:
            mine = {("session", digest.hex()), ("user", user)}
            last = max((n for n, target in enumerate(rows, start=1) if target in mine), default=0)
            for revision in range(len(rows) + 1):
                believed = recent.reflects(digest=digest, user_id=user, revision=revision)
                assert not (believed and revision < last)
                if revision >= last and revision > len(rows) - min(remembered, len(set(rows)) or 1):
                    assert believed, "what cannot have been forgotten is believed"
            assert recent.reflects(digest=digest, user_id=user, revision=len(rows))


async def test_after_a_gap_nothing_from_before_is_believed() -> None:
    recent = RecentRevocations()
    recent.on_revocation(Revocation(revision=1, subject="user", key="other"))
    assert recent.reflects(digest=DIGESTS[0], user_id="u0", revision=1)
    recent.start_over(LogHead(log_id="log-2", revision=9, compacted_through=9))
    assert not recent.reflects(digest=DIGESTS[0], user_id="u0", revision=8)
    assert recent.reflects(digest=DIGESTS[0], user_id="u0", revision=9)


async def test_a_log_that_was_compacted_meanwhile_is_a_gap() -> None:
    log = ScriptedLog()
    log.append(count=10)
    head = await log.head()
    log.compacted_through = 5
    recent = RecentRevocations()
    await recent.load(log, head)
    assert not recent.reflects(digest=DIGESTS[0], user_id="u0", revision=9)
