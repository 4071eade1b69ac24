"""What people and machines ask of the service over HTTP."""

from foretell.serving.api.app import build_app
from foretell.serving.api.auth import Caller, Tokens

__all__ = ["Caller", "Tokens", "build_app"]
