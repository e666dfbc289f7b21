"""Run the sidecar's command line with `python -m bridge_sidecar`."""

import sys

from bridge_sidecar.cli import main

if __name__ == "__main__":
    sys.exit(main())
