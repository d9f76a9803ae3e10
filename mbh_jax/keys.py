"""What a key of a configuration is: its default, the rule that its value must meet, its meaning.

Every network, loss, optimizer and augmentation declares its own keys with these; `mbh_jax.config`
has the shared ones.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict


class Key(NamedTuple):
    """One key of a configuration.

    Attributes:
        default: its value in a configuration of before it existed, and where a component that has
            it is chosen on the command line.
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
        create: makes it from the values of its keys, given by name.
        keys: the keys that it brings.
        meaning: what it is, for the documentation.
        problem: from its section of a configuration, what is wrong with a combination of values
            each of which meets its rule, or None.
    """

    create: Callable[..., Any]
    keys: Mapping[str, Key]
    meaning: str
    problem: Callable[[ConfigDict], str | None] = lambda _: None


def in_float32(value: Any) -> float:
    """What a number is on a device: rounded to float32, and 0 where it is too small for its range.

    NaN for what is no number, as True and False are not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return math.nan
    try:
        with np.errstate(over="ignore"):
            rounded = float(np.float32(value))
    except OverflowError:  # A whole number beyond any float.
        return math.inf if value > 0 else -math.inf
    return rounded if abs(rounded) >= _SMALLEST_FLOAT32 else 0.0


_SMALLEST_FLOAT32 = float(np.finfo(np.float32).tiny)
"""The smallest positive normal number; devices take what is smaller for 0."""


def integer(default: int, minimum: int, meaning: str, *, maximum: int | None = None) -> Key:
    """A whole number of at least `minimum` and, if given, at most `maximum`."""

    def accepts(value: Any) -> bool:
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        return is_integer and value >= minimum and (maximum is None or value <= maximum)

    wanted = f"of {minimum} or more" if maximum is None else f"from {minimum} to {maximum}"
    return Key(default, accepts, f"a whole number {wanted}", meaning)


def number(default: float, minimum: float, meaning: str, *, below: float = math.inf) -> Key:
    """A number of at least `minimum` and less than `below`, in float32."""
    wanted = f"a number from {minimum:g}" + ("" if below == math.inf else f" to below {below:g}")
    minimum_float32 = in_float32(minimum)
    return Key(default, lambda value: minimum_float32 <= in_float32(value) < below, wanted, meaning)


def share(default: float, meaning: str) -> Key:
    """A number from 0 to 1, in float32."""
    return Key(default, lambda value: 0 <= in_float32(value) <= 1, "a number from 0 to 1", meaning)


def positive(default: float, meaning: str) -> Key:
    """A finite number above 0, in float32."""
    return Key(default, lambda value: 0 < in_float32(value) < math.inf, "a number above 0", meaning)


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
