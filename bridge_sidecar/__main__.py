"""The sidecar's command line, as `bridge-sidecar` and `python -m bridge_sidecar`."""

import sys


def main() -> int:
    """Run a command. The exec probe runs every few seconds and must not load what only the others need."""
    if sys.argv[1:2] == ["healthcheck"]:
        from bridge_sidecar import healthcheck  # noqa: PLC0415

        return healthcheck.main(sys.argv[2:])
    from bridge_sidecar.cli import main as other_commands  # noqa: PLC0415

    return other_commands()


if __name__ == "__main__":
    sys.exit(main())
