"""Triton's interpreter with the same results in less time: it repeats work in every call of a device function.

``python -m tests.kernels.interpreter SCRIPT ...`` runs a script with it; ``TRITON_INTERPRET`` has to be set.
"""

from __future__ import annotations

import functools
import inspect
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np


def quicken() -> None:
    """Patch the language once per launch and not once per call, look types up once, and fold bits by NumPy."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    # a version that works otherwise is left alone, and slow
    if not hasattr(interpreter, "_LangPatchScope") or isinstance(interpreter._patch_lang, _OncePerLaunch):
        return
    interpreter._patch_lang = _OncePerLaunch(interpreter)
    interpreter._get_np_dtype = _looked_up_once(interpreter)
    interpreter.ReduceOps.generic_reduce = _fold_bits(interpreter)


class _OncePerLaunch:
    """``_patch_lang``: a launch calls it first and undoes it last; what happens between finds the language patched."""

    def __init__(self, interpreter: Any) -> None:
        self._patch, self._scope = interpreter._patch_lang, interpreter._LangPatchScope
        self._languages = {id(interpreter.tl), id(interpreter.tl.core)}
        self._named: dict[Any, set[int]] = {}
        self._patched: set[int] | None = None

    def __call__(self, function: Any) -> Any:
        named = self._named.get(function)
        if named is None:
            modules = {id(value) for value in function.__globals__.values() if inspect.ismodule(value)}
            named = self._named[function] = modules & self._languages
        if self._patched is not None:
            if named <= self._patched:
                return self._scope()
            self._patched |= named
            return self._patch(function)
        self._patched = set(named)
        scope = self._patch(function)
        restore = scope.restore

        def end() -> None:
            self._patched = None
            restore()

        scope.restore = end
        return scope


def _looked_up_once(interpreter: Any) -> Any:
    """Return ``_get_np_dtype``, which builds its table anew for every value."""
    slow, language = interpreter._get_np_dtype, interpreter.tl
    cached = functools.cache(slow)

    def numpy_type(triton_type: Any) -> Any:
        element = triton_type.element_ty if isinstance(triton_type, language.block_type) else triton_type
        # types of pointers have no hash, and are not looked up
        return (slow if isinstance(element, language.pointer_type) else cached)(element)

    return numpy_type


def _fold_bits(interpreter: Any) -> Any:
    """Return ``generic_reduce``, which calls Python for every element, with a way around for ``topk`` and ``sort``."""
    slow, xor = interpreter.ReduceOps.generic_reduce, interpreter.tl.standard._xor_combine

    def generic_reduce(self: Any, values: Any) -> Any:
        if self.combine_fn is not xor or self.axis is None:
            return slow(self, values)
        folded = [np.bitwise_xor.reduce(value.handle.data, self.axis, keepdims=self.keep_dims) for value in values]
        return [self.to_tensor(data, value.dtype) for data, value in zip(folded, values, strict=True)]

    return generic_reduce


if __name__ == "__main__":
    quicken()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
