"""The face of the server that puts models behind the chat-completions interface."""

from runtime.models.server.accounts import Account, Books
from runtime.models.server.app import Service, create_app
from runtime.models.server.faults import MODES
from runtime.models.server.limits import Limits
from runtime.models.server.listening import serve
from runtime.models.server.requests import BODY_LIMIT_BYTES

__all__ = ["BODY_LIMIT_BYTES", "MODES", "Account", "Books", "Limits", "Service", "create_app", "serve"]
