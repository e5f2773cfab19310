"""Transformations as text: a name, and settings after a colon."""

import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any

from moon_jax.data.contract import DataError
from moon_jax.data.processing import TRANSFORMATIONS
from moon_jax.data.processing.exposure import read_exposure
from moon_jax.data.processing.transformation import Transformation

TRUTHS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def parse_transformation(text: str) -> Transformation:
    """`parse_transformation("near_titles:threshold=0.7,scope=all")`; `exposure:exposure=FILE` reads shares from a table.

    Raises DataError for an unknown name or setting, and for a value of another type.
    """
    name, _, settings = text.partition(":")
    if name not in TRANSFORMATIONS:
        near = difflib.get_close_matches(name, TRANSFORMATIONS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"unknown transformation {name!r}; {hint}there are {', '.join(TRANSFORMATIONS)}")
    kind = TRANSFORMATIONS[name]
    known = {field.name: field.default for field in fields(kind)}
    given: dict[str, Any] = {}
    for setting in filter(None, settings.split(",")):
        key, equals, value = setting.partition("=")
        if key not in known or not equals:
            told = ", ".join(f"{field}={'FILE' if default == () else default}" for field, default in known.items())
            raise DataError(f"{name}: {setting!r} is no setting; there are {told}")
        given[key] = _value(name, key, value, known[key])
    return kind(**given)


def _value(name: str, key: str, text: str, default: Any) -> Any:
    if default == ():
        return read_exposure(Path(text))
    if isinstance(default, bool):
        if text.lower() not in TRUTHS:
            raise DataError(f"{name}: {key} must be true or false, not {text!r}")
        return TRUTHS[text.lower()]
    try:
        return type(default)(text)
    except ValueError:
        raise DataError(f"{name}: {key} must be a number like {default}, not {text!r}") from None
