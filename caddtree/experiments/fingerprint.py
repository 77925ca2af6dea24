"""What a result depends on besides its recipe: code, versions, model files, and the machine."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import caddtree
from caddtree.experiments.definition import Variant
from caddtree.plugins.hooks import STAGES
from caddtree.plugins.recipe import Recipe
from caddtree.plugins.registry import default_registry

_VERSIONED = ("torch", "transformers", "tokenizers", "triton", "numpy")
_DECODING = (
    "core", "kernels", "drafters", "tree_builders", "cost_models", "verifiers", "runtime", "profiling", "loading.py",
    "experiments/worker.py",
)  # fmt: skip
"""Code that a result depends on; a change of the command line or of a report makes nothing stale."""
_HASHED_BYTES = 64 << 20
"""Larger files count by size and time of change: hashing them would take longer than a run."""


def fingerprint(variant: Variant) -> str:
    """Return a hash of code, versions and model files; a result that was made with another one is stale."""
    recipe = variant.recipe
    used = [default_registry().info(kind, recipe.stage(kind).name) for kind in STAGES]
    # an observer may say where a text ends
    used += [default_registry().info("observer", choice.name) for choice in recipe.observers]
    state = {
        "code": _code_hash(),
        "versions": versions(),
        "python": platform.python_version(),
        "providers": [str(info.provider) for info in used],
        "plugins": [_plugin_hash(info.strategy_class) for info in used],
        "files": {path: _folder_hash(Path(path)) for path in _model_paths(recipe)},
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of the packages that tokens and times depend on; without those that are not installed."""
    found = {"caddtree": caddtree.__version__}
    for name in _VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def software() -> dict[str, str]:
    """Return what this process runs on, by name: it must be the same wherever cells of one run are decoded."""
    return {"code of caddtree": _code_hash()[:12], "python": platform.python_version(), **versions()}


def machine_facts() -> dict[str, Any]:
    """Return the machine and the versions of this process, as JSON values."""
    import torch

    from caddtree.core.machine import processor_name

    is_cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if is_cuda else processor_name(),
        "device_kind": "cuda" if is_cuda else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": _commit(),
    }


@functools.cache
def _code_hash() -> str:
    root = Path(caddtree.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for part in _DECODING for path in [root / part, *(root / part).rglob("*.py")]):
        if path.is_dir():
            continue
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _plugin_hash(strategy_class: type) -> str | None:
    """Return a hash of the source that a third party's strategy comes from, which is edited while it is tuned."""
    package = strategy_class.__module__.partition(".")[0]
    file = getattr(sys.modules.get(package), "__file__", None)
    if package == "caddtree" or file is None:
        return None
    path = Path(file)
    files = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for source in files:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _commit() -> str | None:
    """Return the commit of the checkout that the package is run from, with a plus where it was changed."""
    folder = Path(caddtree.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None  # an installed package: its version says which


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip()


def _model_paths(recipe: Recipe) -> list[str]:
    """Return the local files and folders that a recipe names."""
    paths = [recipe.target.model]
    for kind in STAGES:
        stage = recipe.stage(kind)
        options = default_registry().info(kind, stage.name).options
        paths += [str(stage.options[o.name]) for o in options if o.is_path and stage.options.get(o.name)]
    return sorted({path for path in paths if Path(path).expanduser().exists()})


@functools.cache
def _folder_hash(path: Path) -> str:
    path = path.expanduser()
    files = [path] if path.is_file() else sorted(entry for entry in path.rglob("*") if entry.is_file())
    digest = hashlib.sha256()
    for file in files:
        state = file.stat()
        digest.update(f"{file.relative_to(path.parent).as_posix()}\0{state.st_size}\0".encode())
        if state.st_size <= _HASHED_BYTES:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            digest.update(str(state.st_mtime_ns).encode())
    return digest.hexdigest()
