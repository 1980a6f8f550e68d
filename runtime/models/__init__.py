"""The face of the models: what a user builds a catalogue from."""

from typing import TYPE_CHECKING

from runtime.lazy import lazy

if TYPE_CHECKING:
    from runtime.models.base import ChatMessage as ChatMessage
    from runtime.models.base import ChatModel as ChatModel
    from runtime.models.base import ChatReply as ChatReply
    from runtime.models.base import ChatRequest as ChatRequest
    from runtime.models.base import ToolCall as ToolCall
    from runtime.models.catalog import ModelSpec as ModelSpec
    from runtime.models.recorded import RecordedModel as RecordedModel
    from runtime.models.scripted import ScriptedModel as ScriptedModel
    from runtime.models.simulated import SimulatedModel as SimulatedModel

_LAZY = {
    "ChatMessage": "runtime.models.base",
    "ChatModel": "runtime.models.base",
    "ChatReply": "runtime.models.base",
    "ChatRequest": "runtime.models.base",
    "ToolCall": "runtime.models.base",
    "ModelSpec": "runtime.models.catalog",
    "RecordedModel": "runtime.models.recorded",
    "ScriptedModel": "runtime.models.scripted",
    "SimulatedModel": "runtime.models.simulated",
}
__all__ = sorted(_LAZY)
__getattr__ = lazy(globals(), _LAZY)
