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

import caddtree
from caddtree.core.errors import CostModelError
from caddtree.core.machine import processor_name
from caddtree.core.profile import Profile, read_profile
from caddtree.core.target import target_fingerprint
from caddtree.profiling.measure import measure_profile, usable_contexts

if TYPE_CHECKING:
    from caddtree.core.decoder import Decoder

logger = logging.getLogger(__name__)

LARGEST_COUNT = 256
"""Draft nodes that every profile reaches."""


def profile_key(decoder: Decoder) -> dict[str, str]:
    """Return what a profile depends on, as readable text."""
    import transformers

    target = decoder.target
    device = torch.cuda.get_device_name(target.device) if target.device.type == "cuda" else processor_name()
    return {
        "target": f"{type(target.model).__name__} {target_fingerprint(target.config)[:16]}",
        "drafter": f"{_described(decoder.drafter)} {getattr(decoder.drafter, 'config', '')}".strip(),
        # how many nodes it takes changes the rounds that are run, not what a round of so many nodes costs
        "tree_builder": type(decoder.tree_builder).__name__,
        "verifier": _described(decoder.verifier),
        "runtime": target.runner.description,
        "attention": str(target.model.config._attn_implementation),
        "device": device,
        "dtype": str(target.dtype),
        "contexts": str(usable_contexts(decoder)),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "caddtree": caddtree.__version__,
        **({"processes": str(decoder.group.size)} if decoder.group.size > 1 else {}),
    }


def profile_path(key: dict[str, str]) -> Path:
    """Return where the profile of a key is kept; ``CADDTREE_CACHE_DIR`` moves the folder."""
    root = os.environ.get("CADDTREE_CACHE_DIR") or platformdirs.user_cache_dir("caddtree")
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return Path(root) / "profiles" / f"{digest[:20]}.json"


def load_or_measure(decoder: Decoder, *, max_count: int = LARGEST_COUNT, renew: bool = False) -> Profile:
    """Return the kept profile of this decoder on this machine, or measure one and keep it.

    Args:
        decoder: The pipeline.
        max_count: Draft nodes that the profile must reach; it reaches 256 at least, so that smaller budgets share it.
        renew: Measure although a profile is kept.
    """
    key = profile_key(decoder)
    path = profile_path(key)
    max_count = 0 if decoder.drafter.block_size == 1 else max(max_count, LARGEST_COUNT)
    # what one process finds on its disk decides whether all of them measure
    kept = None if renew else decoder.group.share(lambda: _kept(path, key, max_count))
    if kept is not None:
        return kept
    profile = measure_profile(decoder, key, max_count=max_count)
    if decoder.group.rank > 0:
        return profile
    try:
        profile.write(path)
    except OSError as error:
        logger.warning("the profile could not be kept (%s); it is measured again next time", error)
    return profile


def _kept(path: Path, key: dict[str, str], max_count: int) -> Profile | None:
    """Return the profile kept for this key, or None after a word on why rounds must be measured."""
    if path.exists():
        try:
            profile = read_profile(path)
        except CostModelError as error:
            logger.warning("%s; it is measured anew", error)
            return None
        if dict(profile.key) == key and profile.max_count >= max_count:
            return profile
    # a warning, not an info: a first answer that waits for a minute must say why, in a library too
    logger.warning("no profile of this pipeline on this machine yet: measuring rounds once, into %s", path)
    return None


def _described(strategy: Any) -> str:
    """Return a strategy's class and options, without what it loaded."""
    if not attrs.has(type(strategy)):
        return type(strategy).__name__
    options = {
        field.name: getattr(strategy, field.name)
        for field in attrs.fields(type(strategy))
        if field.init and not field.name.startswith("_")
    }
    return f"{type(strategy).__name__} {json.dumps(options, sort_keys=True, default=str)}"
