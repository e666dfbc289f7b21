"""An RPC without a scope that a bridge can hold stops the start."""

import itertools

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from flowless.domain.bridges import Scope
from flowless.grpc.authorization import PUBLIC_SERVICES, ScopeTableError, required_scopes
from flowless.grpc.server import SERVICES
from trustlayer.v1 import options_pb2, validator_pb2

_names = itertools.count()


def _service(*scopes: int | None) -> ServiceDescriptor:
    """A service with one RPC for each scope; `None` declares none."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"tests/scope_table_{next(_names)}.proto", syntax="proto3", dependency=[options_pb2.DESCRIPTOR.name]
    )
    file.package = f"tests.scope_table{next(_names)}"
    file.message_type.add(name="Empty")
    service = file.service.add(name="Sample")
    for number, scope in enumerate(scopes):
        empty = f".{file.package}.Empty"
        method = service.method.add(name=f"Rpc{number}", input_type=empty, output_type=empty)
        if scope is not None:
            method.options.Extensions[options_pb2.scope] = options_pb2.Scope.ValueType(scope)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"{file.package}.Sample")


def test_every_scope_that_a_bridge_can_hold_is_accepted() -> None:
    service = _service(*Scope)
    assert required_scopes([service]) == {
        f"/{service.full_name}/Rpc{number}": scope for number, scope in enumerate(Scope)
    }


@pytest.mark.parametrize("scope", [None, options_pb2.SCOPE_UNSPECIFIED, options_pb2.SCOPE_LOCAL_SOCKET, 99])
def test_an_rpc_without_such_a_scope_is_refused_by_name(scope: int | None) -> None:
    service = _service(Scope.VALIDATE, scope)
    with pytest.raises(ScopeTableError, match=rf"{service.full_name}\.Rpc1 declares no scope"):
        required_scopes([_service(Scope.ADMIN), service])


def test_the_sidecars_own_service_cannot_be_served_to_bridges() -> None:
    with pytest.raises(ScopeTableError, match="ValidatorService"):
        required_scopes([validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"]])


def test_the_table_holds_every_rpc_that_is_served_and_nothing_that_is_public() -> None:
    table = required_scopes(SERVICES)
    assert len(table) == sum(len(service.methods) for service in SERVICES)
    assert not any(path.split("/")[1] in PUBLIC_SERVICES for path in table)


def test_scopes_of_bridges_are_those_of_the_proto_without_the_local_one() -> None:
    declared = {name.removeprefix("SCOPE_"): number for name, number in options_pb2.Scope.items()}
    del declared["UNSPECIFIED"], declared["LOCAL_SOCKET"]
    assert declared == {scope.name: scope.value for scope in Scope}
