"""What each library adds to a process' resident memory: `python -m bench.imports [MODULE…]`."""

import subprocess
import sys

DEFAULT = (
    "asyncio",
    "grpc.aio",
    "grpc_status.rpc_status",
    "structlog",
    "cachetools",
    "h11",
    "envoy.service.auth.v3.external_auth_pb2",
    "argparse",
    "tomllib",
    "typer",
    "pydantic_settings",
)

_PROBE = """
import importlib, sys
def resident():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024
before = resident()
print(f"{'(interpreter)':<24} {before:>7.1f} MiB")
for name in sys.argv[1:]:
    importlib.import_module(name)
    now = resident()
    print(f"{name:<24} {now - before:>+7.1f} MiB  {now:>7.1f} MiB in all")
    before = now
"""


def main() -> int:
    """Import the modules one after the other in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", _PROBE, *(sys.argv[1:] or DEFAULT)], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
