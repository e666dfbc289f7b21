"""Write `deploy/envoy/trustlayer.binpb`: the protos with the HTTP rules of `deploy/envoy/http-rules.yaml` in them.

Envoy's gRPC-JSON transcoder loads it. It also holds google.rpc.Status and the details that our errors carry, or Envoy
could not write them as JSON. `--check` compares with what is committed instead.

It is committed, so that whoever runs Envoy needs this one file and neither protoc nor Python.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import google.rpc
import yaml
from google.api import annotations_pb2, http_pb2, service_pb2
from google.protobuf import json_format
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto

ROOT: Final = Path(__file__).resolve().parent.parent
PROTO: Final = ROOT / "proto"
RULES: Final = ROOT / "deploy" / "envoy" / "http-rules.yaml"
TARGET: Final = ROOT / "deploy" / "envoy" / "trustlayer.binpb"
_GOOGLEAPIS: Final = Path(next(iter(google.rpc.__path__))).parents[1]
_OF_ERRORS: Final = ("google/rpc/status.proto", "google/rpc/error_details.proto")


class RulesError(Exception):
    """The rules do not fit the protos."""


def rules() -> dict[str, http_pb2.HttpRule]:
    """Full method name -> its rule. Raises RulesError for a method with two, and for a file that is no Service."""
    try:
        service = json_format.ParseDict(yaml.safe_load(RULES.read_text()), service_pb2.Service())
    except json_format.ParseError as error:
        raise RulesError(f"{RULES.name}: {error}") from None
    found: dict[str, http_pb2.HttpRule] = {}
    for rule in service.http.rules:
        if rule.selector in found:
            raise RulesError(f"{rule.selector} has two rules; more than one path belongs into additional_bindings")
        found[rule.selector] = rule
    return found


def compiled() -> FileDescriptorSet:
    """Compile the protos with everything that they import, and what errors carry."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as output:
        command = [
            sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", f"--proto_path={_GOOGLEAPIS}",
            "--include_imports", f"--descriptor_set_out={output.name}", *_OF_ERRORS, *sources,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        return FileDescriptorSet.FromString(Path(output.name).read_bytes())


def methods(files: FileDescriptorSet) -> dict[str, MethodDescriptorProto]:
    """Full name -> method."""
    return {
        f"{file.package}.{service.name}.{method.name}": method
        for file in files.file
        for service in file.service
        for method in service.method
    }


def descriptor_set() -> bytes:
    """Put the rules into the protos. Raises RulesError for a rule of a method that there is not."""
    files = compiled()
    known = methods(files)
    for selector, rule in rules().items():
        method = known.get(selector)
        if method is None:
            raise RulesError(f"{selector} is no method")
        annotation = method.options.Extensions[annotations_pb2.http]
        annotation.CopyFrom(rule)
        annotation.ClearField("selector")
    return files.SerializeToString(deterministic=True)


def main() -> int:
    """Write, or compare with what is committed."""
    try:
        fresh = descriptor_set()
    except RulesError as error:
        print(error, file=sys.stderr)
        return 1
    if "--check" not in sys.argv[1:]:
        TARGET.write_bytes(fresh)
        return 0
    if not TARGET.exists() or TARGET.read_bytes() != fresh:
        print(f"differs from the protos and rules: {TARGET.relative_to(ROOT)} (run `make proto`)", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
