"""The house rules for `proto/`, as a function over descriptors: what `buf lint` does not check.

Every RPC's comment ends with `Scope:`, `Errors:` and `Idempotency:`, and those lines tell the truth; everything
that can be commented is.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
    MethodOptions,
)

from trustlayer.v1 import options_pb2
from trustlayer.v1.errors_pb2 import ErrorReason

PROTO = Path(__file__).resolve().parents[2] / "proto"

# Field numbers in descriptor.proto; a source location's path is made of them.
_MESSAGE, _ENUM, _SERVICE, _EXTENSION = 4, 5, 6, 7
_FIELD, _NESTED_MESSAGE, _NESTED_ENUM, _ONEOF = 2, 3, 4, 8
_VALUE, _METHOD = 2, 2

_IDEMPOTENCY = {
    MethodOptions.IDEMPOTENCY_UNKNOWN: "not idempotent",
    MethodOptions.NO_SIDE_EFFECTS: "no side effects",
    MethodOptions.IDEMPOTENT: "idempotent",
}
_NO_ERRORS = "none of its own"
_REASON = re.compile(r"[A-Z][A-Z_]+[A-Z]")

SourcePath = tuple[int, ...]


def compile_protos(directory: Path) -> FileDescriptorSet:
    """Compile all files below the directory, with their comments; imports resolve there and then in `PROTO`."""
    sources = sorted(str(path.relative_to(directory)) for path in directory.rglob("*.proto"))
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={directory}", f"--proto_path={PROTO}",
        "--include_source_info", "--descriptor_set_out=/dev/stdout", *sources,
    ]  # fmt: skip
    compiled = subprocess.run(command, check=True, capture_output=True, timeout=60)
    return FileDescriptorSet.FromString(compiled.stdout)


def violations(files: FileDescriptorSet) -> list[str]:
    """Say what is against the rules, one line each; empty when nothing is."""
    return [line for file in files.file for line in _File(file).violations()]


class _File:
    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): location.leading_comments.strip() for location in file.source_code_info.location
        }

    def violations(self) -> Iterator[str]:
        for path, name in self._commentable():
            if not self._comments.get(path):
                yield f"{name}: no comment"
        for s, service in enumerate(self._file.service):
            for m, method in enumerate(service.method):
                name = f"{service.name}.{method.name}"
                comment = self._comments.get((_SERVICE, s, _METHOD, m), "")
                yield from (f"{name}: {problem}" for problem in _rpc_problems(method, comment))

    def _commentable(self) -> Iterator[tuple[SourcePath, str]]:
        for i, message in enumerate(self._file.message_type):
            yield from self._in_message((_MESSAGE, i), message, "")
        for i, enum in enumerate(self._file.enum_type):
            yield from self._in_enum((_ENUM, i), enum, "")
        for i, extension in enumerate(self._file.extension):
            yield (_EXTENSION, i), extension.name
        for i, service in enumerate(self._file.service):
            yield (_SERVICE, i), service.name
            for m, method in enumerate(service.method):
                yield (_SERVICE, i, _METHOD, m), f"{service.name}.{method.name}"

    def _in_message(self, path: SourcePath, message: DescriptorProto, outer: str) -> Iterator[tuple[SourcePath, str]]:
        name = f"{outer}{message.name}"
        yield path, name
        for i, field in enumerate(message.field):
            yield (*path, _FIELD, i), f"{name}.{field.name}"
        for i, oneof in enumerate(message.oneof_decl):
            yield (*path, _ONEOF, i), f"{name}.{oneof.name}"
        for i, enum in enumerate(message.enum_type):
            yield from self._in_enum((*path, _NESTED_ENUM, i), enum, f"{name}.")
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._in_message((*path, _NESTED_MESSAGE, i), nested, f"{name}.")

    def _in_enum(self, path: SourcePath, enum: EnumDescriptorProto, outer: str) -> Iterator[tuple[SourcePath, str]]:
        yield path, f"{outer}{enum.name}"
        for i, value in enumerate(enum.value):
            yield (*path, _VALUE, i), f"{outer}{enum.name}.{value.name}"


def _rpc_problems(method: MethodDescriptorProto, comment: str) -> Iterator[str]:
    lines = _labelled(comment)
    declared = method.options.Extensions[options_pb2.scope]
    if declared == options_pb2.SCOPE_UNSPECIFIED:
        yield "declares no scope"
    for label in ("Scope", "Errors", "Idempotency"):
        if not lines.get(label):
            yield f"its comment has no line `{label}:`"
    scope = lines.get("Scope", "")
    if scope and scope != f"{options_pb2.Scope.Name(declared)}.":
        yield f"says `Scope: {scope}` but declares {options_pb2.Scope.Name(declared)}"
    errors = lines.get("Errors", "")
    for reason in _REASON.findall(errors):
        if f"ERROR_REASON_{reason}" not in ErrorReason.DESCRIPTOR.values_by_name:
            yield f"names the error {reason}, which ErrorReason does not have"
    if errors and not errors.startswith(_NO_ERRORS) and not _REASON.search(errors):
        yield f"says `Errors: {errors}` without naming one or `{_NO_ERRORS}`"
    idempotency = lines.get("Idempotency", "")
    expected = _IDEMPOTENCY[method.options.idempotency_level]
    if idempotency and not re.match(rf"{expected}[.;]", idempotency):
        yield f"says `Idempotency: {idempotency}` but its idempotency_level means `{expected}`"


def _labelled(comment: str) -> dict[str, str]:
    """Take the labelled lines out of a comment; a line without a label belongs to the one above it."""
    found: dict[str, str] = {}
    label = ""
    for line in (line.strip() for line in comment.splitlines()):
        if match := re.match(r"([A-Z][a-z]+): (.*)", line):
            label, found[label] = match[1], match[2]
        elif not line:
            label = ""
        elif label:
            found[label] += f" {line}"
    return found
