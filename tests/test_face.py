"""What callers see of the errors: they travel, they have a text, and the tree in the docstring is the truth."""

import inspect
import pickle
import typing
from types import NoneType
from typing import Any

import pytest

from runtime import errors

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if issubclass(cls, BaseException) and cls.__module__ == errors.__name__
]
SAMPLES: dict[object, Any] = {str: "some text", int: 3, float: 2.5, bool: True, NoneType: None, tuple[int, ...]: (7, 2)}


def samples(cls: type[BaseException]) -> list[BaseException]:
    """Build one error for each alternative in the annotations of its `__init__`."""
    if not any("__init__" in vars(base) for base in cls.__mro__ if base.__module__ == errors.__name__):
        return [cls("some text")]
    parameters = list(inspect.signature(cls).parameters)
    hints = typing.get_type_hints(cls.__init__)
    choices = [typing.get_args(hints[name]) or (hints[name],) for name in parameters]
    n_alternatives = max((len(choice) for choice in choices), default=1)
    return [cls(*(SAMPLES[c[i % len(c)]] for c in choices)) for i in range(n_alternatives)]


def tree_in_docstring() -> dict[str, str]:
    """Read the second paragraph of the module's docstring: the name of each class to that of its parent."""
    parents: dict[str, str] = {}
    above = ["Exception"]
    for line in inspect.cleandoc(errors.__doc__ or "").split("\n\n")[1].splitlines():
        name_and_rest = line.lstrip("│├└─ ")
        depth = (len(line) - len(name_and_rest)) // 4
        name = name_and_rest.split()[0]
        above[depth + 1 :] = [name]
        parents[name] = above[depth]
    return parents


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickle(cls: type[BaseException]) -> None:
    for error in samples(cls):
        copy = pickle.loads(pickle.dumps(error))

        assert (type(copy), copy.args, str(copy), vars(copy)) == (cls, error.args, str(error), vars(error))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_has_a_text_that_is_more_than_its_arguments(cls: type[BaseException]) -> None:
    for error in samples(cls):
        assert str(error)
        assert str(error) != str(error.args), "__str__ is missing"


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert tree_in_docstring() == {cls.__name__: cls.__base__.__name__ for cls in CLASSES if cls.__base__}
