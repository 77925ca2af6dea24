"""What processes tell each other, as JSON: plain values, tensors of the host, and the package's own attrs values.

Nothing else can be sent, and nothing that is read can run code: a class is looked up among those of caddtree that are
imported already, and only one that attrs made is called.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import Tensor

_TAG = "is"


def to_bytes(value: object) -> bytes:
    """Return a value as the bytes that :func:`from_bytes` reads back.

    Raises:
        TypeError: If it holds what cannot be sent.
    """
    return json.dumps(_plain(value), separators=(",", ":")).encode()


def from_bytes(message: bytes) -> Any:
    """Return the value of a message.

    Raises:
        ValueError: If it names a class that is none of caddtree's attrs classes.
    """
    return _value(json.loads(message))


def _plain(value: Any) -> Any:
    # numpy's float64 is a float to Python, its integers are no integers
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {_TAG: "tuple", "items": [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {_TAG: "dict", "items": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, Tensor):
        return {_TAG: "tensor", "dtype": str(value.dtype).removeprefix("torch."), "items": value.tolist()}
    if isinstance(value, np.ndarray):
        return {_TAG: "array", "dtype": value.dtype.name, "items": value.tolist()}
    if isinstance(value, Path):
        return {_TAG: "path", "items": str(value)}
    return _plain_fields(value)


def _plain_fields(value: Any) -> dict[str, Any]:
    """Return the constructor's arguments of an attrs value; what it derives, or keeps on a device, stays behind."""
    kind = type(value)
    if not _may_be_sent(kind):
        raise TypeError(f"a {kind.__name__} cannot be sent to other processes")
    fields = {field.alias: _plain(getattr(value, field.name)) for field in attrs.fields(kind) if field.init}
    return {_TAG: "attrs", "class": f"{kind.__module__}:{kind.__qualname__}", "items": fields}


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    items = plain["items"]
    match plain[_TAG]:
        case "tuple":
            return tuple(_value(item) for item in items)
        case "dict":
            return {_value(key): _value(item) for key, item in items}
        case "tensor":
            return torch.tensor(items, dtype=getattr(torch, plain["dtype"]))
        case "array":
            return np.array(items, dtype=plain["dtype"])
        case "path":
            return Path(items)
    return _named_class(plain["class"])(**{name: _value(item) for name, item in items.items()})


def _named_class(name: str) -> type:
    module, _, qualname = name.partition(":")
    kind = getattr(sys.modules.get(module), qualname, None)
    if not isinstance(kind, type) or not _may_be_sent(kind):
        raise ValueError(f"{name} is no value of caddtree that processes send each other")
    return kind


def _may_be_sent(kind: type) -> bool:
    return attrs.has(kind) and kind.__module__.partition(".")[0] == "caddtree"
