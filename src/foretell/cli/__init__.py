"""The command line."""

from foretell.cli.app import app

__all__ = ["app"]
