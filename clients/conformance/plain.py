"""Messages as plain values of YAML, and back: what cases are written in, and what is compared."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

NANOS: Final = 1_000_000_000
_STAMPED: Final = frozenset((Timestamp.DESCRIPTOR.full_name, Struct.DESCRIPTOR.full_name))


def plain(message: Message) -> dict[str, Any]:
    """Turn a message into a mapping by its fields' names.

    Only what is set is in it. Numbers stay numbers, also 64-bit ones; a duration is its seconds; an enum's value is
    its name without the prefix that all of them share, or its number where there is no name.
    """
    return {
        field.name: [_value(field, item) for item in value] if _is_list(value) else _value(field, value)
        for field, value in message.ListFields()
    }


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes | Message)


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if not isinstance(value, Message):
        return value
    name = value.DESCRIPTOR.full_name
    if name == Duration.DESCRIPTOR.full_name:
        return value.seconds + value.nanos / NANOS  # type: ignore[attr-defined]
    if name in _STAMPED:
        return json_format.MessageToDict(value)
    return plain(value)


def enum_name(enum: EnumDescriptor, number: int) -> str | int:
    """Name a value as cases do: `IP_MISMATCH` of `DENIAL_REASON_IP_MISMATCH`; the number where it has no name."""
    known = enum.values_by_number.get(number)
    return number if known is None else str(known.name).removeprefix(_prefix(enum))


def _prefix(enum: EnumDescriptor) -> str:
    return str(enum.values_by_number[0].name).removesuffix("UNSPECIFIED")


def fill(message: Message, values: Mapping[str, Any]) -> None:
    """Set a message's fields from a case: names of fields as in the proto, values as in protobuf's JSON.

    Enums may be written without their prefix, and as numbers that nobody knows. Raises ValueError with what is wrong.
    """
    try:
        json_format.ParseDict(_long_names(message.DESCRIPTOR.fields_by_name, values), message)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None


def _long_names(fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _long_name(fields.get(name), value) for name, value in values.items()}


def _long_name(field: FieldDescriptor | None, value: Any) -> Any:
    if field is None:
        return value
    if isinstance(value, list):
        return [_long_name(field, item) for item in value]
    if field.enum_type is not None and isinstance(value, str):
        short = _prefix(field.enum_type) + value
        return short if short in field.enum_type.values_by_name else value
    if field.message_type is not None and isinstance(value, Mapping):
        if field.message_type.full_name in _STAMPED:
            return value
        return _long_names(field.message_type.fields_by_name, value)
    return value
