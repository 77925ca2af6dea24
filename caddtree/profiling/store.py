"""Keeps profiles under the user's cache folder, keyed by everything that changes them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import platformdirs
import torch

from caddtree.core.errors import CostModelError
from caddtree.core.profile import Profile, read_profile
from caddtree.profiling.measure import measure_profile

if TYPE_CHECKING:
    from caddtree.core.pipeline import Decoder

logger = logging.getLogger(__name__)


def profile_key(decoder: Decoder) -> dict[str, str]:
    """Return what a profile depends on, as readable text."""
    import transformers

    target = decoder.target
    config = target.config
    shape = {name: getattr(config, name, None) for name in ("hidden_size", "num_hidden_layers", "vocab_size")}
    device = torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else _processor()
    return {
        "target": f"{type(target.model).__name__} {json.dumps(shape, sort_keys=True)}",
        "target_fingerprint": target.fingerprint or "",
        "drafter": _described(decoder.drafter),
        "tree_builder": _described(decoder.tree_builder),
        "verifier": _described(decoder.verifier),
        "attention": str(target.model.config._attn_implementation),
        "device": device,
        "dtype": str(target.dtype),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def profile_path(key: dict[str, str]) -> Path:
    """Return where the profile of a key is kept; ``CADDTREE_CACHE_DIR`` moves the folder."""
    root = os.environ.get("CADDTREE_CACHE_DIR") or platformdirs.user_cache_dir("caddtree")
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(root) / "profiles" / f"{digest[:20]}.json"


def load_or_measure(decoder: Decoder, *, max_count: int = 256, renew: bool = False) -> Profile:
    """Return the kept profile of this decoder on this machine, or measure one and keep it."""
    key = profile_key(decoder)
    path = profile_path(key)
    if path.exists() and not renew:
        try:
            profile = read_profile(path)
            if dict(profile.key) == key:
                return profile
        except CostModelError as error:
            logger.warning("%s; it is measured anew", error)
    logger.info("no profile of this pipeline on this machine yet: measuring rounds once, into %s", path)
    profile = measure_profile(decoder, key, max_count=max_count)
    try:
        profile.write(path)
    except OSError as error:
        logger.warning("the profile could not be kept (%s); it is measured again next time", error)
    return profile


def _described(strategy: Any) -> str:
    """Return a strategy's class and options, without what it loaded."""
    options = {
        field.name: getattr(strategy, field.name)
        for field in attrs.fields(type(strategy))
        if field.init and not field.name.startswith("_")
    }
    return f"{type(strategy).__name__} {json.dumps(options, sort_keys=True, default=str)}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux: the platform's own word must do
    return platform.processor() or platform.machine()
