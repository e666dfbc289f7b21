"""A protoc plugin that writes gRPC's Python code: grpcio-tools has the generator, but only inside its own protoc.

Reads a CodeGeneratorRequest from standard input and writes a CodeGeneratorResponse, as plugins do;
`clients/python/buf.gen.yaml` names it.
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.compiler import plugin_pb2
from grpc_tools import protoc


def respond(request: plugin_pb2.CodeGeneratorRequest) -> plugin_pb2.CodeGeneratorResponse:
    """Let grpcio-tools' protoc generate from the descriptors that the request carries."""
    response = plugin_pb2.CodeGeneratorResponse(
        supported_features=plugin_pb2.CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
    )
    with tempfile.TemporaryDirectory() as tmp:
        descriptors, out = Path(tmp) / "descriptors", Path(tmp) / "out"
        descriptors.write_bytes(descriptor_pb2.FileDescriptorSet(file=request.proto_file).SerializeToString())
        out.mkdir()
        code = protoc.main(
            ["protoc", f"--descriptor_set_in={descriptors}", f"--grpc_python_out={out}", *request.file_to_generate]
        )
        if code != 0:
            response.error = f"grpcio-tools' protoc ended with {code}; its words are above"
            return response
        for file in sorted(path for path in out.rglob("*") if path.is_file()):
            response.file.add(name=file.relative_to(out).as_posix(), content=file.read_text())
    return response


def main() -> int:
    """Answer one request."""
    request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(respond(request).SerializeToString())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
