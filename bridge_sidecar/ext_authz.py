"""Envoy's external authorization, `envoy.service.auth.v3.Authorization/Check`, on the sidecar's socket.

Thin: Envoy's message in, the gate's decision out. Imported only where the setting `ext_authz` is on: the stubs cost
memory.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Final

import grpc
from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2
from envoy.type.v3 import http_status_pb2
from google.protobuf.struct_pb2 import Struct
from google.rpc import code_pb2, status_pb2

from bridge_sidecar.gate import Decision, Gate, GateRequest
from bridge_sidecar.http_requests import Headers, lines_of
from bridge_sidecar.identity_headers import KNOWN, guarded
from trust_core import request_ids
from trust_core.grpc_edge import Context

SERVICE: Final = "envoy.service.auth.v3.Authorization"
_CODES: Final = {
    HTTPStatus.OK: code_pb2.OK,
    HTTPStatus.UNAUTHORIZED: code_pb2.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: code_pb2.PERMISSION_DENIED,
    HTTPStatus.SERVICE_UNAVAILABLE: code_pb2.UNAVAILABLE,
}
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


class ExtAuthz:
    """The service. An error that is not ours ends the call, which Envoy takes for a refusal."""

    def __init__(self, *, gate: Gate) -> None:
        self._gate = gate

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service."""
        check = grpc.unary_unary_rpc_method_handler(
            self.check,
            external_auth_pb2.CheckRequest.FromString,
            external_auth_pb2.CheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Check": check})

    async def check(self, request: Any, _context: Context) -> Any:
        """Decide one request of Envoy's."""
        attributes = request.attributes
        http = attributes.request.http
        headers = _headers_of(http)
        known_as = request_ids.running()
        if known_as is not None:
            known_as.prefer("".join(lines_of(headers, request_ids.METADATA_KEY)))
        decision = await self._gate.decide(
            GateRequest(
                method=http.method,
                path=http.path,
                headers=headers,
                # Another kind of address than an IP (a Unix socket) has no text here: then there is no client IP.
                peer=attributes.source.address.socket_address.address,
            )
        )
        return _response(decision, headers)


def _headers_of(http: attribute_context_pb2.AttributeContext.HttpRequest) -> Headers:
    """Take the headers; lines of one name come apart only where Envoy is told `encode_raw_headers`."""
    if http.header_map.headers:
        return [(header.key.lower(), _value(header)) for header in http.header_map.headers]
    return [(name.lower(), value) for name, value in http.headers.items()]


def _value(header: base_pb2.HeaderValue) -> str:
    raw: bytes = header.raw_value
    return raw.decode("latin-1") if raw else str(header.value)


def _response(decision: Decision, headers: Headers) -> external_auth_pb2.CheckResponse:
    response = external_auth_pb2.CheckResponse(
        status=status_pb2.Status(code=_CODES[decision.status]), dynamic_metadata=_metadata(decision)
    )
    if decision.passes:
        said = {name for name, _ in decision.headers}
        response.ok_response.headers.extend(_options(decision.headers))
        # What is set replaces whatever the client sent under that name; every other spelling is removed.
        response.ok_response.headers_to_remove.extend(sorted({*KNOWN, *guarded(headers)} - said))
    else:
        denied = response.denied_response
        denied.status.code = http_status_pb2.StatusCode.ValueType(int(decision.status))
        denied.headers.extend(_options(decision.headers))
        denied.body = decision.body.decode()
    return response


def _options(headers: Iterable[tuple[str, str]]) -> Iterable[base_pb2.HeaderValueOption]:
    for name, value in headers:
        yield base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=name, value=value), append_action=_OVERWRITE)


def _metadata(decision: Decision) -> Struct:
    """Tell access logs what was decided. Names only what is public: no session id."""
    metadata = Struct()
    for key, value in (
        ("rule", decision.rule),
        ("reason", decision.reason),
        ("session_handle", decision.session_handle),
        ("user_id", decision.user_id),
    ):
        if value:
            metadata.fields[key].string_value = value
    return metadata
