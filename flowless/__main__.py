"""`python -m flowless` is the command `flowless`."""

from flowless.cli import main

if __name__ == "__main__":
    main()
