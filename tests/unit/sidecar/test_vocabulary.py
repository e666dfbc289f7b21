"""The sidecar's numbers and methods are the proto's."""

from bridge_sidecar.revocation_watch import WatchState
from bridge_sidecar.unix_server import SERVICE, serialize
from bridge_sidecar.validator import Tier, Verdict
from trust_core.modes import DenialReason
from trustlayer.v1 import types_pb2, validator_pb2


def test_tiers_have_the_numbers_of_the_proto() -> None:
    assert {f"TIER_{tier.name}": tier.value for tier in Tier} == {k: v for k, v in types_pb2.Tier.items() if v}


def test_watch_states_have_the_numbers_of_the_proto() -> None:
    proto = {k: v for k, v in validator_pb2.WatchState.items() if v}
    assert {f"WATCH_STATE_{state.name}": state.value for state in WatchState} == proto


def test_a_spliced_answer_is_the_message_that_it_stands_for() -> None:
    session = types_pb2.Session(handle="sh_x", user=types_pb2.User(id="usr_1", roles=["a", "b"]))
    payload = validator_pb2.ValidateResponse(session=session).SerializeToString()
    answer = validator_pb2.ValidateResponse.FromString(serialize(Verdict(payload, 0, Tier.LRU, 7, 1_500_000_000)))
    assert answer.session == session
    assert (answer.freshness.tier, answer.freshness.revision) == (types_pb2.TIER_LRU, 7)
    assert answer.freshness.age.ToMilliseconds() == 1_500


def test_only_an_answer_beyond_the_lease_carries_the_mark() -> None:
    within, at_the_end, beyond = (
        validator_pb2.ValidateResponse.FromString(serialize(Verdict(b"", 0, Tier.LRU, 7, 0, ago)))
        for ago in (None, 0, 2_500_000_000)
    )
    assert not within.freshness.HasField("beyond_lease")
    assert at_the_end.freshness.HasField("beyond_lease")
    assert beyond.freshness.beyond_lease.ToMilliseconds() == 2_500


def test_every_denial_has_a_text_and_an_unknown_one_stays_a_denial() -> None:
    for number in (*DenialReason, 99):
        answer = validator_pb2.ValidateResponse.FromString(serialize(Verdict(b"", number, Tier.DATABASE, 1, 0)))
        assert answer.WhichOneof("result") == "denial"
        assert answer.denial.reason == number
        assert answer.denial.message


def test_the_service_is_the_protos() -> None:
    assert SERVICE == "trustlayer.v1.ValidatorService"
    methods = validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"].methods_by_name
    assert set(methods) == {"Validate", "GetStatus"}
