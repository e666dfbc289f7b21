"""The version of both programs and of the clients; `pyproject.toml` reads it here."""

__version__ = "0.1.0"
