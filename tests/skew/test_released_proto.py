"""Messages of this version and of the released one, in both directions: what one does not know costs nothing.

`proto/released.binpb` is the released standard as descriptors; `make proto-check` refuses what breaks it, and these
tests look at messages themselves: every one of them, filled to the last field.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.message import Message

from trustlayer.pubflow.v1 import pubflow_pb2
from trustlayer.v1 import (
    admin_pb2,
    bridge_pb2,
    errors_pb2,
    identity_pb2,
    session_pb2,
    trust_token_pb2,
    types_pb2,
    validator_pb2,
)

_V1 = (admin_pb2, bridge_pb2, errors_pb2, identity_pb2, session_pb2, trust_token_pb2, types_pb2, validator_pb2)
NOW = {
    descriptor.full_name: descriptor
    for file in (*_V1, pubflow_pb2)
    for descriptor in file.DESCRIPTOR.message_types_by_name.values()
}
_ONEOFS = 5
"""More than the fields of any oneof."""
_DEPTH = 4


def _released() -> dict[str, Descriptor]:
    pool = descriptor_pool.DescriptorPool()
    files = FileDescriptorSet.FromString((Path(__file__).parents[2] / "proto" / "released.binpb").read_bytes())
    for file in files.file:
        pool.Add(file)
    return {
        descriptor.full_name: descriptor
        for file in files.file
        if file.package.startswith("trustlayer.")
        for descriptor in pool.FindFileByName(file.name).message_types_by_name.values()
    }


RELEASED = _released()


def made(descriptor: Descriptor) -> Message:
    """A message of the type."""
    return message_factory.GetMessageClass(descriptor)()


def filled(descriptor: Descriptor, *, oneof: int = 0, depth: int = _DEPTH) -> Message:
    """A message with every field set; of each oneof the field with this index, and enums to what nobody knows yet."""
    message = made(descriptor)
    for field in descriptor.fields:
        group = field.containing_oneof
        if group is not None and group.fields[oneof % len(group.fields)].name != field.name:
            continue
        if field.message_type is not None and depth == 0:
            continue
        _fill(message, field, oneof=oneof, depth=depth)
    return message


def _fill(message: Message, field: FieldDescriptor, *, oneof: int, depth: int) -> None:
    target = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return
    if field.message_type is not None:
        inner = target.add() if field.is_repeated else target
        inner.CopyFrom(filled(field.message_type, oneof=oneof, depth=depth - 1))
        inner.SetInParent()
        return
    value = _value(field)
    if field.is_repeated:
        target.append(value)
    else:
        setattr(message, field.name, value)


def _value(field: FieldDescriptor) -> object:
    if field.enum_type is not None:
        return max(field.enum_type.values_by_number) + 1_000
    return {
        FieldDescriptor.CPPTYPE_STRING: b"bytes" if field.type == FieldDescriptor.TYPE_BYTES else "text",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 1.5,
        FieldDescriptor.CPPTYPE_FLOAT: 1.5,
    }.get(field.cpp_type, 7)


def same(one: Message, other: Message) -> Iterator[str]:
    """Name the fields that both versions know and that differ."""
    for field in one.DESCRIPTOR.fields:
        if field.name not in other.DESCRIPTOR.fields_by_name:
            continue
        first, second = getattr(one, field.name), getattr(other, field.name)
        if field.message_type is None:
            if (list(first) != list(second)) if field.is_repeated else first != second:
                yield field.full_name
        elif field.is_repeated:
            for inner, its in zip(first, second, strict=True):
                yield from same(inner, its)
        else:
            if one.HasField(field.name) != other.HasField(field.name):
                yield field.full_name
            yield from same(first, second)


def test_every_released_message_is_there_still() -> None:
    assert len(RELEASED) > 50
    assert set(RELEASED) <= set(NOW)


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_what_either_version_says_the_other_understands_as_far_as_it_knows_it_and_passes_on_whole(name: str) -> None:
    pairs = ((NOW[name], RELEASED[name]), (RELEASED[name], NOW[name]))
    for (speaker, listener), oneof in itertools.product(pairs, range(_ONEOFS)):
        said = filled(speaker, oneof=oneof)
        heard = made(listener)
        heard.ParseFromString(said.SerializeToString(deterministic=True))
        assert list(same(said, heard)) == []
        passed_on = made(speaker)
        passed_on.ParseFromString(heard.SerializeToString(deterministic=True))
        assert passed_on == said, "what the listener does not know is kept"


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_fields_that_were_added_since_are_absent_from_what_the_released_version_says(name: str) -> None:
    heard = made(NOW[name])
    heard.ParseFromString(filled(RELEASED[name]).SerializeToString())
    for field in NOW[name].fields:
        if field.name not in RELEASED[name].fields_by_name:
            assert field.has_presence or field.is_repeated or getattr(heard, field.name) == field.default_value
            assert field.name not in {known.name for known, _ in heard.ListFields()}
