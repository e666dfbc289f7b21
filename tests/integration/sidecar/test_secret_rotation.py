"""The secret file is replaced: no call fails that Flowless could have taken with what the file holds."""

from pathlib import Path

import grpc
import pytest

from tests.support.rpc import reason
from tests.support.sidecar import Running, new_id, new_secret, running_sidecar
from trust_core.errors import Reason, TrustError
from trustlayer.v1 import session_pb2, types_pb2


def _replace(file: Path, secret: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_text(secret)
    fresh.rename(file)


async def _miss(app: Running) -> int:
    return int((await app.validate(new_id())).denial.reason)


async def _relayed(app: Running) -> str:
    login = new_id()
    answer = await app.sessions.Login(session_pb2.LoginRequest(login=login), timeout=10)
    return "" if answer.session_id == login else "another answer"


async def test_a_call_that_is_refused_in_the_moment_of_the_exchange_is_made_again_with_the_new_secret(
    run_dir: Path,
) -> None:
    file = run_dir / "secret"
    async with running_sidecar(run_dir, bridge_secret_file=str(file)) as app:
        assert await _miss(app) == types_pb2.DENIAL_REASON_UNKNOWN
        for kind in (_miss, _relayed):
            # No overlap, and between two looks at the file: the sidecar cannot know before it is refused.
            secret = new_secret()
            _replace(file, secret)
            app.flowless.secrets = {secret}
            assert await kind(app) in (types_pb2.DENIAL_REASON_UNKNOWN, "")
        assert len(app.flowless.relayed_metadata) == 1


async def test_a_refusal_is_passed_on_at_once_where_the_file_holds_nothing_else(run_dir: Path) -> None:
    file = run_dir / "secret"
    async with running_sidecar(run_dir, bridge_secret_file=str(file)) as app:
        secret = new_secret()
        app.flowless.secrets = {secret}
        for kind in (_miss, _relayed):
            with pytest.raises(grpc.RpcError) as caught:
                await kind(app)
            assert reason(caught.value) == Reason.UPSTREAM_REFUSED_BRIDGE
        _replace(file, secret)
        assert await _miss(app) == types_pb2.DENIAL_REASON_UNKNOWN
        assert await _relayed(app) == ""


async def test_a_call_that_was_refused_for_anything_else_is_not_made_again(run_dir: Path) -> None:
    file = run_dir / "secret"
    async with running_sidecar(run_dir, bridge_secret_file=str(file)) as app:
        app.flowless.relay_error = TrustError(Reason.SCOPE_MISSING, "no")
        app.flowless.secrets = {app.flowless.secrets.copy().pop(), secret := new_secret()}
        _replace(file, secret)
        with pytest.raises(grpc.RpcError):
            await _relayed(app)
        assert len(app.flowless.relayed_metadata) == 1
