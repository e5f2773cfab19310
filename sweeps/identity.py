"""The canonical form of a config: the text that a step's id is the hash of, and the way back from it.

A form is JSON that says for itself what it holds, so that a worker in another process rebuilds the config from it:
a tuple is a list, a mapping an object, and everything else an object with one key that begins with "$".
"""

import base64
import dataclasses
import enum
import importlib
import json
import math
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sweeps.errors import SweepError

LARGEST_ARRAY = 1 << 20  # bytes; what is larger is data, and data are declared as files


def canonical(value: Any, path: str = "config") -> str:
    """Canonical text of a value: the same in every process, for every order of fields and keys.

    Raises SweepError with the path to the first field that has no stable form.
    """
    return text_of(encode(value, path))


def text_of(form: Any) -> str:
    """Compact ASCII text of a form, keys sorted: what is hashed."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)


def encode(value: Any, path: str = "config") -> Any:
    """The canonical form of a value as a tree of plain JSON types. Raises SweepError as `canonical` does.

    Types are matched exactly: a subclass of int or float (a numpy scalar, say) may carry more than its number.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if isinstance(value, enum.Enum):
        return _encode_enum(value, path)
    if type(value) is tuple:
        return [encode(part, f"{path}[{index}]") for index, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _encode_dataclass(value, path)
    if type(value) in (dict, MappingProxyType):
        return _encode_mapping(value, path)
    if "numpy" in sys.modules:  # without it nothing can be an array or a dtype
        form = _encode_numpy(value, path)
        if form is not None:
            return form
    raise SweepError(f"{path}: {_advice(value)}")


def decode(form: Any, path: str = "config") -> Any:
    """The value of a form: classes are imported by their qualified names. Raises SweepError where they no longer fit.

    Tuples come back as tuples, mappings as dicts, dtypes as `numpy.dtype`; the canonical form of what comes back is
    the same.
    """
    if isinstance(form, list):
        return tuple(decode(part, f"{path}[{index}]") for index, part in enumerate(form))
    if not isinstance(form, dict):
        return form
    if "$float" in form:
        return float(form["$float"])
    if "$enum" in form:
        return _decode_enum(form, path)
    if "$class" in form:
        return _decode_dataclass(form, path)
    if "$dtype" in form:
        return _dtype_named(form["$dtype"], path)
    if "$array" in form:
        return _decode_array(form)
    return {key: decode(part, f"{path}.{key}") for key, part in form.items()}


def _encode_enum(value: enum.Enum, path: str) -> dict[str, str]:
    if value.name not in type(value).__members__:
        raise SweepError(f"{path}: {value!r} is a combination without a name of its own; use a tuple of members")
    return {"$enum": _class_name(type(value), path), "name": value.name}


def _encode_dataclass(value: Any, path: str) -> dict[str, Any]:
    """A field with `metadata={"added": True}` is left out at its default: steps from before it was there keep their ids."""
    kind = type(value)
    if not kind.__dataclass_params__.frozen:
        raise SweepError(f"{path}: dataclass {kind.__qualname__} is not frozen; declare it @dataclass(frozen=True)")
    fields = {}
    for field in dataclasses.fields(value):
        if not field.init:
            raise SweepError(f"{path}.{field.name}: a field with init=False cannot be rebuilt; make it a property")
        form = encode(getattr(value, field.name), f"{path}.{field.name}")
        if not (field.metadata.get("added") and text_of(form) == canonical(field.default)):
            fields[field.name] = form
    return {"$class": _class_name(kind, path), "fields": fields}


def _encode_mapping(value: Mapping[Any, Any], path: str) -> dict[str, Any]:
    form = {}
    for key, part in value.items():
        if type(key) is not str:
            raise SweepError(f"{path}: key {key!r} is not a string; mappings need string keys")
        if key.startswith("$"):
            raise SweepError(f"{path}: key {key!r} begins with '$', which is reserved")
        form[key] = encode(part, f"{path}.{key}")
    return form


def _encode_numpy(value: Any, path: str) -> dict[str, Any] | None:
    import numpy as np

    if isinstance(value, np.dtype):
        return {"$dtype": _dtype_name(value, path)}
    if isinstance(value, type):
        if issubclass(value, np.generic):
            return {"$dtype": _dtype_name(np.dtype(value), path)}
        declared = getattr(
            value, "dtype", None
        )  # array libraries have scalar types of their own with a dtype on the class
        return {"$dtype": _dtype_name(declared, path)} if isinstance(declared, np.dtype) else None
    if isinstance(value, np.generic):
        raise SweepError(f"{path}: a numpy scalar ({value.dtype}) is neither int nor float; write {value.item()!r}")
    if type(value) is not np.ndarray:
        return None
    if value.dtype.kind not in "biufc":
        raise SweepError(f"{path}: an array of dtype {value.dtype} has no stable form; use numbers")
    if value.nbytes > LARGEST_ARRAY:
        raise SweepError(f"{path}: an array of {value.nbytes:,} bytes is data; declare it as a file of the step")
    little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"$array": value.dtype.name, "shape": list(value.shape), "data": data}


def _decode_enum(form: dict[str, Any], path: str) -> enum.Enum:
    kind = _class_named(form["$enum"], path)
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and form["name"] in kind.__members__):
        raise SweepError(f"{path}: {form['$enum']} has no member {form['name']!r} any more")
    return kind[form["name"]]


def _decode_dataclass(form: dict[str, Any], path: str) -> Any:
    kind = _class_named(form["$class"], path)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        raise SweepError(f"{path}: {form['$class']} is not a dataclass any more")
    declared, stored = {field.name for field in dataclasses.fields(kind)}, set(form["fields"])
    added = {field.name for field in dataclasses.fields(kind) if field.metadata.get("added")}
    if declared != stored | added:
        names = ", ".join(sorted(declared ^ (stored | added)))
        raise SweepError(f"{path}: the fields of {form['$class']} have changed ({names}); plan the question anew")
    return kind(**{name: decode(part, f"{path}.{name}") for name, part in form["fields"].items()})


def _decode_array(form: dict[str, Any]) -> Any:
    import numpy as np

    dtype = np.dtype(form["$array"])
    flat = np.frombuffer(base64.b64decode(form["data"]), dtype=dtype.newbyteorder("<")).astype(dtype, copy=False)
    array = flat.reshape(form["shape"])
    array.flags.writeable = False
    return array


def _dtype_name(dtype: Any, path: str) -> str:
    import numpy as np

    try:
        round_trip = np.dtype(dtype.name)
    except TypeError:
        round_trip = None
    if round_trip != dtype or dtype.hasobject:
        raise SweepError(f"{path}: dtype {dtype!r} is not told by its name; use a plain native dtype")
    return str(dtype.name)


def _dtype_named(name: str, path: str) -> Any:
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        pass
    try:
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))  # bfloat16 and other small floats
    except (ImportError, AttributeError):
        raise SweepError(f"{path}: dtype {name!r} is not known here") from None


def _class_name(kind: type, path: str) -> str:
    if kind.__module__ == "__main__" or "<locals>" in kind.__qualname__:
        where = "in __main__" if kind.__module__ == "__main__" else "inside a function"
        raise SweepError(
            f"{path}: class {kind.__qualname__} is defined {where}; define it in a module that workers can import"
        )
    return f"{kind.__module__}:{kind.__qualname__}"


def _class_named(name: str, path: str) -> Any:
    module_name, _, qualified = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in qualified.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise SweepError(f"{path}: class {name} cannot be imported here ({error})") from error
    return found


def _advice(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, list):
        return "a list has no stable form; use a tuple"
    if isinstance(value, set | frozenset):
        return "a set has no order; use a sorted tuple"
    if hasattr(value, "__fspath__"):
        return "a path is not an identity; declare the file in the step's `files`"
    if callable(value):
        return (
            f"{getattr(value, '__qualname__', kind)} is code, which has no stable form; name it by a string or an enum"
        )
    return f"{kind} has no stable form; use numbers, strings, tuples, enums, dtypes, arrays or frozen dataclasses"
