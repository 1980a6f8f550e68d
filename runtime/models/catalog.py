"""Owns the catalogue: which models exist under which name, where their endpoints are and what their tokens cost.

It holds the *name* of the environment variable that has a key, never a key: what a catalogue builds is shipped to other
machines, and each process reads the variable itself when it sends.
"""

import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, date, datetime
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.ids import check_name
from runtime.models.base import ChatModel
from runtime.models.prices import look_up, version
from runtime.models.spec import ModelSpec

__all__ = ("TOML_LIMIT_BYTES", "Catalog", "ModelSpec", "fill_in")

TOML_LIMIT_BYTES = 1_000_000


class Catalog:
    """All models a runtime can use, by name.

    Built in are `sim/small` and `sim/large`; then come the `[models.NAME]` tables of a toml file, then `models`; a later
    one of the same name wins. Where OPENAI_BASE_URL is set, `openai/<model id>` is any model of that endpoint.

    Files, variables, price list and installed task families are read where the catalogue was made. A copy that is shipped to
    a host brings all it found along, except for keys.

    Args:
        models: name to ModelSpec, or to any ChatModel.
        toml: the file with the tables; None reads `ostrom.toml` in the current directory if there is one.
        today: the day whose prices count; None asks the calendar, once.

    Raises:
        ConfigError: a name that cannot be used, an entry that is no model, or a fault in the file.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSpec | ChatModel] | None = None,
        toml: Path | None = None,
        *,
        today: date | None = None,
    ) -> None:
        self._today = today or datetime.now(UTC).date()
        self._base_url = os.environ.get("OPENAI_BASE_URL")
        self._entries: dict[str, ModelSpec | ChatModel | None] = {"sim/large": None, "sim/small": None}
        self._built: dict[str, ChatModel] = {}
        file = toml or Path("ostrom.toml")
        if toml is not None or file.is_file():
            self._entries.update(_read_toml(file))
        for name, entry in (models or {}).items():
            _check_model_name(name)
            if not isinstance(entry, ModelSpec) and not callable(getattr(entry, "complete", None)):
                raise ConfigError(f"models[{name!r}] is a {type(entry).__name__}; give a ModelSpec or a ChatModel")
            self._entries[name] = entry

    def names(self) -> tuple[str, ...]:
        """The names that stand in the catalogue, sorted; `openai/<model id>` are not among them."""
        return tuple(sorted(self._entries))

    def get(self, name: str) -> ChatModel:
        """Give the model of this name, the same object at each call.

        It can be pickled as long as what the user put in can be.

        Raises:
            ConfigError: no such model; the text says what there is and how to add one.
        """
        if name not in self._built:
            # Another thread may have been faster; all get the one that was first.
            self._built.setdefault(name, self._build(name))
        return self._built[name]

    @property
    def has_endpoints(self) -> bool:
        """Whether any of its models is not virtual, or could be."""
        mine = (entry for entry in self._entries.values() if entry is not None)
        return bool(self._base_url) or any(isinstance(m, ModelSpec) or not m.virtual for m in mine)

    def missing_key(self, name: str) -> str | None:
        """Name the environment variable this model's key is missing from, in this process; None if all is well.

        Raises:
            ConfigError: no such model.
        """
        spec = getattr(self.get(name), "spec", None)
        return spec.missing_key() if isinstance(spec, ModelSpec) else None

    def priced_by(self, name: str) -> str:
        """Say where a model's price is from, for the record: the user with a date, the price list with its version and the
        day whose prices count, the model itself; or that there is none.

        Raises:
            ConfigError: no such model.
        """
        model = self.get(name)
        entry = self._entries.get(name) or getattr(model, "spec", None)
        if model.price is None:
            return "unknown"
        if not isinstance(entry, ModelSpec):
            return "declared by the model"
        if entry.input_usd is None or name not in self._entries:
            return f"{version()}, as of {self._today}"
        return "declared" if entry.priced_on is None else f"declared as of {entry.priced_on}"

    async def aclose(self) -> None:
        """Close the connections of the models handed out here that hold any. They open again when used again."""
        for model in self._built.values():
            close = getattr(model, "aclose", None)
            if close is not None:
                await close()

    def __getstate__(self) -> dict[str, Any]:
        for name in self._entries:
            # A model that cannot be built is no fault as long as nobody asks for it; who does is told there.
            with suppress(ConfigError):
                self.get(name)
        return self.__dict__

    def _build(self, name: str) -> ChatModel:
        entry = self._entries[name] if name in self._entries else self._from_environment(name)
        if entry is None:
            return _simulated(name)
        if not isinstance(entry, ModelSpec):
            return entry
        from runtime.models.openai import OpenAIModel

        return OpenAIModel(name, fill_in(entry, self._today))

    def _from_environment(self, name: str) -> ModelSpec:
        model = name.removeprefix("openai/")
        if not self._base_url or model in ("", name):
            raise ConfigError(_unknown(name, self.names()))
        try:
            # Whoever sets the address by its usual variable means the key in the usual variable to go there.
            return ModelSpec(endpoint=self._base_url, model=model, key_env="OPENAI_API_KEY")
        except ConfigError as error:
            raise ConfigError(f"model {name!r} is at OPENAI_BASE_URL: {error}") from None


def fill_in(spec: ModelSpec, today: date) -> ModelSpec:
    """Complete a spec by the built-in price list: its prices where it declares none, its window where it leaves it open.

    What the list does not know stays None.
    """
    listed = look_up(spec.endpoint, spec.model, spec.window_tokens, today)
    if listed is None:
        return spec
    new: dict[str, Any] = {} if spec.window_tokens else {"window_tokens": listed.window_tokens}
    if spec.input_usd is None:
        prices = ("input_usd", "output_usd", "cached_usd", "cache_write_usd", "tiers")
        new |= {name: getattr(listed, name) for name in prices}
    return spec.model_copy(update=new)


@cache
def _solvers() -> tuple[Any, ...]:
    """The solvers of all installed task families. The first that reads a task works on it, so they are put in order."""
    found = {}
    for point in entry_points(group="ostrom.solvers"):
        try:
            found[point.name] = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"the solver {point.name!r} ({point.value}) cannot be loaded: {error}") from None
    return tuple(found[name] for name in sorted(found))


def _simulated(name: str) -> ChatModel:
    from runtime.models.simulated import large, small

    return small(_solvers()) if name == "sim/small" else large(_solvers())


def _read_toml(file: Path) -> dict[str, ModelSpec]:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    if len(raw) > TOML_LIMIT_BYTES:
        raise ConfigError(f"{file}: larger than {TOML_LIMIT_BYTES:,} bytes")
    try:
        document = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: no valid TOML: {error}") from None
    for name in document:
        if name != "models" and get_close_matches(name, ["models"]):
            raise ConfigError(f"{file}: unknown table [{name}]; did you mean [models...], as in [models.small]?")
    tables = document.get("models", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"{file}: models must be tables, as in [models.small]")
    specs = {}
    for name, table in tables.items():
        try:
            _check_model_name(name)
            if not isinstance(table, dict):
                raise ConfigError("must be a table with endpoint and model")
            specs[name] = ModelSpec.model_validate(table)
        except ConfigError as error:
            raise ConfigError(f"{file}: [models.{name}]: {str(error).removeprefix('ModelSpec: ')}") from None
    return specs


def _check_model_name(name: str) -> None:
    for piece in name.split("/"):
        check_name(piece, "model name")


def _unknown(name: str, names: tuple[str, ...]) -> str:
    near = get_close_matches(name, names, 3)
    near += [other for other in names if other.endswith(f"/{name}") and other not in near]
    guess = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
    more = ""
    if name.startswith("openai/"):
        more = " For openai/<model id>, set OPENAI_BASE_URL to the endpoint (and OPENAI_API_KEY to its key)."
    return (
        f"no model {name!r}{guess} There are: {', '.join(names)}. Add one as [models.NAME] with endpoint and model in"
        f" ostrom.toml, or by Runtime(models={{NAME: ModelSpec(...)}}).{more}"
    )
