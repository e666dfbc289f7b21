"""Somebody who guesses: logins with any address, one by one or many at once, and what became of them."""

import ipaddress
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator

import grpc
from google.rpc import error_details_pb2

from tests.support.flowless import PASSWORD, Client, code_of, outcome
from tests.support.rpc import detail, reason
from trustlayer.v1 import session_pb2, types_pb2

WRONG = "a password that nobody has"
CHECKED = "LOGIN_REFUSED"
LIMITED = "TOO_MANY_ATTEMPTS"
_NETWORKS = itertools.count(0x0A000000)


def addresses() -> Iterator[str]:
    """Addresses that no other test of this process uses, one network each."""
    return (str(ipaddress.ip_address(number)) for number in _NETWORKS)


def request(login: str, password: str, client_ip: str, device: str = "") -> session_pb2.LoginRequest:
    """A login from an address."""
    context = types_pb2.RequestContext(client_ip=client_ip, device_fingerprint=device)
    return session_pb2.LoginRequest(login=login, password=password, context=context)


def tried(client: Client, login: str, client_ip: str, password: str = WRONG, device: str = "") -> str:
    """Reason of the error that one attempt ends with; empty when it succeeds."""
    return outcome(lambda: client.sessions.Login(request(login, password, client_ip, device)))[1]


def tried_at_once(clients: Iterable[Client], requests: Iterable[session_pb2.LoginRequest]) -> Counter[str]:
    """Send all at once, to the clients in turn; count the reasons."""
    turns = itertools.cycle(clients)
    calls = [next(turns).sessions.Login.future(each) for each in requests]
    errors = [call.exception() for call in calls]
    return Counter(reason(error) if isinstance(error, grpc.RpcError) else "" for error in errors)


def logs_in(client: Client, login: str, client_ip: str, device: str = "") -> bool:
    """Whether the right password is enough."""
    return tried(client, login, client_ip, PASSWORD, device) == ""


def seconds_to_wait(error: grpc.RpcError) -> int:
    """What a refusal says of when to come back."""
    assert code_of(error) == "RESOURCE_EXHAUSTED"
    info = detail(error, error_details_pb2.RetryInfo)
    assert info is not None
    return int(info.retry_delay.seconds)
