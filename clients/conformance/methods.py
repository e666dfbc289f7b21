"""The RPCs that a sidecar's socket serves, out of the generated descriptors."""

from typing import Final

from google.protobuf.descriptor import MethodDescriptor

from trustlayer.v1 import identity_pb2, session_pb2, trust_token_pb2, validator_pb2

VALIDATE: Final = "validate"
"""What a case calls the client's own way to validate a session."""
_SERVICES: Final = (
    validator_pb2.DESCRIPTOR.services_by_name["ValidatorService"],
    identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    session_pb2.DESCRIPTOR.services_by_name["SessionService"],
    trust_token_pb2.DESCRIPTOR.services_by_name["TrustTokenService"],
)
METHODS: Final[dict[str, MethodDescriptor]] = {
    f"{service.name}/{method.name}": method
    for service in _SERVICES
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
}
"""`SessionService/Login` -> its descriptor. The sidecar relays no streams."""


def full_name(method: str) -> str:
    """Name a method as on the wire, without the first slash."""
    descriptor = METHODS[method]
    return f"{descriptor.containing_service.full_name}/{descriptor.name}"
