"""The HTTP rules fit the protos, and what Envoy loads follows from both."""

from collections.abc import Iterator

import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet, MethodDescriptorProto

from tools import envoy_descriptor

EXPOSED = (
    "trustlayer.v1.BridgeService.",
    "trustlayer.v1.IdentityService.",
    "trustlayer.v1.SessionService.",
    "trustlayer.v1.TrustTokenService.",
    "trustlayer.pubflow.v1.PubflowService.",
)
SECRET_FIELDS = ("session_id", "token", "password", "new_password", "current_password", "email", "login", "secret")
OF_THE_WIRE = "trustlayer.pubflow.v1."
"""Pubflow's clients put session ids into queries, which the access log leaves out."""


@pytest.fixture(scope="module")
def compiled() -> FileDescriptorSet:
    return envoy_descriptor.compiled()


@pytest.fixture(scope="module")
def methods(compiled: FileDescriptorSet) -> dict[str, MethodDescriptorProto]:
    return envoy_descriptor.methods(compiled)


def test_every_rule_names_an_rpc_and_every_unary_rpc_that_is_to_be_reached_has_one(
    methods: dict[str, MethodDescriptorProto],
) -> None:
    reachable = {
        name
        for name, method in methods.items()
        if name.startswith(EXPOSED) and not method.client_streaming and not method.server_streaming
    }
    assert set(envoy_descriptor.rules()) == reachable


def _messages(files: FileDescriptorSet) -> dict[str, DescriptorProto]:
    return {f".{file.package}.{message.name}": message for file in files.file for message in file.message_type}


def _patterns(rule: http_pb2.HttpRule) -> Iterator[tuple[str, str]]:
    for each in (rule, *rule.additional_bindings):
        verb = str(each.WhichOneof("pattern"))
        yield verb, getattr(each, verb)


def test_no_secret_can_come_in_a_path_or_a_query_of_rest(
    compiled: FileDescriptorSet, methods: dict[str, MethodDescriptorProto]
) -> None:
    messages = _messages(compiled)
    for name, rule in envoy_descriptor.rules().items():
        fields = {field.name for field in messages[methods[name].input_type].field}
        in_the_body = fields if rule.body == "*" else {rule.body}
        if not name.startswith(OF_THE_WIRE):
            assert not (fields - in_the_body) & set(SECRET_FIELDS), name
        for _, pattern in _patterns(rule):
            assert not any(f"{{{field}}}" in pattern for field in SECRET_FIELDS), name


def test_no_two_rpcs_have_the_same_verb_and_path() -> None:
    patterns = [pattern for rule in envoy_descriptor.rules().values() for pattern in _patterns(rule)]
    assert len(patterns) == len(set(patterns))


def test_what_reads_only_is_not_the_target_of_a_verb_that_writes_without_a_body(
    methods: dict[str, MethodDescriptorProto],
) -> None:
    for name, rule in envoy_descriptor.rules().items():
        if any(verb == "get" for verb, _ in _patterns(rule)):
            assert methods[name].options.idempotency_level == methods[name].options.NO_SIDE_EFFECTS, name


def test_the_descriptor_that_is_committed_follows_from_protos_and_rules() -> None:
    assert envoy_descriptor.TARGET.read_bytes() == envoy_descriptor.descriptor_set(), "run `make proto`"


def test_the_descriptor_carries_the_rules_and_the_types_of_error_details() -> None:
    files = FileDescriptorSet.FromString(envoy_descriptor.TARGET.read_bytes())
    login = envoy_descriptor.methods(files)["trustlayer.v1.SessionService.Login"]
    assert login.options.Extensions[annotations_pb2.http].post == "/v1/sessions:login"
    assert {"google/rpc/status.proto", "google/rpc/error_details.proto"} <= {file.name for file in files.file}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http: {rules: [{selector: trustlayer.v1.SessionService.Invented, get: /x}]}", "is no method"),
        ("http: {rules: [{selector: a.B.C, get: /x}, {selector: a.B.C, get: /y}]}", "has two rules"),
        ("http: {rules: [{selector: a.B.C, fetch: /x}]}", "fetch"),
    ],
)
def test_a_rule_that_fits_nothing_is_refused(
    text: str, problem: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("rules") / "rules.yaml"
    file.write_text(text)
    monkeypatch.setattr(envoy_descriptor, "RULES", file)
    with pytest.raises(envoy_descriptor.RulesError, match=problem):
        envoy_descriptor.descriptor_set()
