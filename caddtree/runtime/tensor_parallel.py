"""A target in pieces: every process of one torchrun holds a shard of each layer and runs the whole decoding loop.

Transformers cuts the layers by the plan that a model family brings. What keeps the processes in step is
``rank_group.py``, and what keeps them from waiting for the dead is ``watch.py``.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import logging
import math
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch

from caddtree.core.errors import CompatibilityError
from caddtree.core.group import Alone, Group
from caddtree.core.target import is_sharded

COLLECTIVE_SECONDS = 15.0
"""Processes in lockstep are milliseconds apart: one that comes so late comes no more."""
_START = "torchrun --nproc-per-node 2 -m caddtree generate ..."
_JOIN_SECONDS = 600.0
"""Processes are started together, but on some machines importing torch takes minutes."""
_STUCK_SECONDS = {"gloo": COLLECTIVE_SECONDS + 3.0}
"""Gloo gives up by itself; elsewhere a process may wait on its device for ever."""
_STUCK_SECONDS_ELSEWHERE = 5.0
_ATTENTION_INPUTS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value")
_CUT_BY_HEADS = ("colwise", "packed_colwise")


def group_for(parallel: str, device: str) -> Group:
    """Return the processes that a target is to be shared with, joined if they are not yet.

    Args:
        parallel: ``target.parallel`` of the recipe.
        device: ``target.device`` of the recipe.

    Raises:
        CompatibilityError: If the way this process was started, or its devices, do not fit.
    """
    size = _environment_number("WORLD_SIZE", 1)
    if parallel == "tensor":
        if size < 2:
            raise CompatibilityError(
                f"target.parallel is tensor, but this process is the only one; start two or more: {_START}"
            )
        if importlib.util.find_spec("accelerate") is None:
            raise CompatibilityError("target.parallel tensor needs accelerate: pip install 'caddtree[parallel]'")
        return _joined(_device(device))
    if parallel == "auto" and size > 1:
        raise CompatibilityError(
            f"{size} processes were started together, and each of them would do the same work. "
            f"Set target.parallel=tensor to shard the target over them, or none if each is meant to answer on its own."
        )
    return Alone()


def load_sharded(name: str, dtype: Any, size: int) -> tuple[Any, Mapping[str, Any]]:
    """Return this process's part of a model, on its device, and what Transformers says of the loading.

    Args:
        name: Folder or hub id.
        dtype: Of the weights, or ``auto``.
        size: Processes that share it.

    Raises:
        CompatibilityError: If the family has no plan, or its heads or layers cannot be dealt out evenly.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.distributed import DistributedConfig

    _check_plan(AutoConfig.from_pretrained(name, trust_remote_code=False), name, size)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            distributed_config=DistributedConfig(tp_plan="auto"),
        )
    except ValueError as error:
        # sizes that some versions cannot deal out, an output head of odd width among them
        detail = str(error).strip().partition("\n")[0]
        raise CompatibilityError(
            f"target.model {name}: Transformers cannot shard it over {size} processes: {detail}"
        ) from error
    if not is_sharded(model):
        raise CompatibilityError(f"target.model {name}: Transformers sharded no layer of {type(model).__name__}")
    _limit_waits(model)
    return model, found


def local_part(weight: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a parameter."""
    return weight.to_local() if hasattr(weight, "to_local") else weight


def weights_digest(model: Any) -> str:
    """Return a digest of the vectors that every process holds whole, such as norms: it tells checkpoints apart."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        if weight.ndim == 1 and not hasattr(weight, "placements"):
            digest.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# torch's own group of processes is one per process as well, and can be made once
@functools.cache
def _joined(device: torch.device) -> Group:
    # not every build of torch has these, and one process needs none of them
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore, _get_default_store, _set_pg_timeout

    from caddtree.runtime.rank_group import RankGroup
    from caddtree.runtime.watch import Watch

    if not dist.is_initialized():
        is_cuda = device.type == "cuda"
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            timeout=timedelta(seconds=_JOIN_SECONDS),
            device_id=device if is_cuda else None,
        )
    # a clone per thread: a store that waits for a key does nothing else meanwhile
    store: Any = PrefixStore("caddtree", _get_default_store())
    stuck_seconds = _STUCK_SECONDS.get(dist.get_backend(), _STUCK_SECONDS_ELSEWHERE)
    watch = Watch(store.clone(), dist.get_rank(), dist.get_world_size(), stuck_seconds=stuck_seconds)
    # trees and walks are on the host anyway; the barrier within also waits for everybody's first beat
    control = dist.new_group(backend="gloo", timeout=timedelta(seconds=_JOIN_SECONDS))
    dist.barrier(group=control)
    _set_pg_timeout(timedelta(seconds=COLLECTIVE_SECONDS), control)
    watch.start()
    if watch.rank > 0:
        # what is to be said is said once, by the first
        logging.getLogger("caddtree").setLevel(logging.ERROR)
    group = RankGroup(store.clone(), control, watch)
    atexit.register(group.close)
    return group


def _device(device: str) -> torch.device:
    """Return the device of this process: of several like it on a machine, each takes its own."""
    kind, _, index = device.partition(":")
    accelerator = torch.accelerator.current_accelerator()
    found = "cpu" if accelerator is None else accelerator.type
    if kind == "auto":
        kind = found
    if index:
        raise CompatibilityError(
            f"target.device is {device}, but every process needs a device of its own; say auto, or {kind}"
        )
    if kind not in ("cpu", "cuda"):
        raise CompatibilityError(f"target.device is {device}: tensor parallel runs on cuda devices, and on the CPU")
    if kind != found:
        # Transformers asks torch, not us
        raise CompatibilityError(
            f"target.device is {device}, but Transformers shards over what torch finds here, which is {found}"
            + ("; hide it to run on the CPU, e.g. CUDA_VISIBLE_DEVICES=''" if kind == "cpu" else "")
        )
    if kind == "cpu":
        return torch.device("cpu")
    local_rank, count = _environment_number("LOCAL_RANK", 0), torch.accelerator.device_count()
    if local_rank >= count:
        raise CompatibilityError(
            f"process {local_rank} of this machine has no device: it shows {count}; start {count} processes per machine"
        )
    torch.accelerator.set_device_index(local_rank)
    return torch.device(kind, local_rank)


def _check_plan(config: Any, name: str, size: int) -> None:
    text = config.get_text_config(decoder=True)
    plan = getattr(text, "base_model_tp_plan", None)
    if not plan:
        raise CompatibilityError(
            f"target.model {name}: Transformers has no plan to shard models of type {config.model_type}; "
            f"use one process, with target.parallel=none"
        )
    if not any(key.endswith(_ATTENTION_INPUTS) and style in _CUT_BY_HEADS for key, style in plan.items()):
        return  # every process keeps all heads
    heads = {key: getattr(text, key, None) for key in ("num_attention_heads", "num_key_value_heads")}
    counts = [count for count in heads.values() if isinstance(count, int)]
    for key, count in heads.items():
        if isinstance(count, int) and count % size:
            fitting = [number for number in range(2, math.gcd(*counts) + 1) if math.gcd(*counts) % number == 0]
            fix = f"start one of {', '.join(map(str, fitting))}" if fitting else "use one process"
            raise CompatibilityError(
                f"target.model {name}: its {key} {count} cannot be dealt out to {size} processes; {fix}"
            )


def _limit_waits(model: Any) -> None:
    """Let the layers' own collective operations give up as early as ours: Transformers allows for half an hour."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    meshes = [weight.device_mesh for weight in model.parameters() if hasattr(weight, "device_mesh")]
    for group in meshes[0].get_all_groups():
        _set_pg_timeout(timedelta(seconds=COLLECTIVE_SECONDS), group)


def _environment_number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else default
