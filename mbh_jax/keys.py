"""What a key of a configuration is: its default, the rule that its value must meet, its meaning.

Every network, loss and optimizer declares its own keys with these; `mbh_jax.config` has the shared
ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict


class Key(NamedTuple):
    """One key of a configuration.

    Attributes:
        default: what it was worth before it existed; also its value where a component that has it
            is chosen on the command line.
        accepts: whether a value meets the rule.
        wanted: the rule in words, after "must be".
        meaning: what it does, for the documentation.
    """

    default: Any
    accepts: Callable[[Any], bool]
    wanted: str
    meaning: str


class Component(NamedTuple):
    """Something that a configuration chooses by name, such as a loss.

    Attributes:
        create: makes it of its keys' values, given by name.
        keys: its own keys.
        meaning: what it is, for the documentation.
    """

    create: Callable[..., Any]
    keys: Mapping[str, Key]
    meaning: str


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def integer(default: int, minimum: int, meaning: str) -> Key:
    """A whole number of at least `minimum`."""
    return Key(
        default,
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= minimum,
        f"a whole number of {minimum} or more",
        meaning,
    )


def number(default: float, minimum: float, meaning: str, *, below: float = math.inf) -> Key:
    """A number of at least `minimum` and less than `below`."""
    wanted = f"a number from {minimum:g}" + ("" if below == math.inf else f" to below {below:g}")
    return Key(
        default, lambda value: is_number(value) and minimum <= value < below, wanted, meaning
    )


def positive(default: float, meaning: str) -> Key:
    """A finite number above 0."""
    return Key(
        default,
        lambda value: is_number(value) and 0 < value < math.inf,
        "a number above 0",
        meaning,
    )


def choice(default: str, values: Mapping | tuple[str, ...], meaning: str) -> Key:
    """One of a few texts."""
    return Key(
        default, lambda value: value in tuple(values), "one of " + ", ".join(values), meaning
    )


def switch(default: bool, meaning: str) -> Key:
    """True or False."""
    return Key(default, lambda value: isinstance(value, bool), "True or False", meaning)


def text(default: str, meaning: str) -> Key:
    """A text that is not empty."""
    return Key(default, lambda value: isinstance(value, str) and bool(value), "a text", meaning)


def flatten(config: ConfigDict | dict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `("section.key", value)` for every leaf."""
    for key, value in config.items():
        if isinstance(value, ConfigDict | dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
