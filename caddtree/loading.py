"""From a recipe to a decoder: models, tokenizer and strategies, loaded and bound."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from caddtree import __version__
from caddtree.core.decoder import Decoder
from caddtree.core.errors import CheckpointError, CompatibilityError
from caddtree.core.group import Group
from caddtree.core.protocols import Observer
from caddtree.core.target import Target, is_sharded, target_fingerprint
from caddtree.plugins.hooks import STAGES
from caddtree.plugins.recipe import Recipe, TargetOptions, load_recipe
from caddtree.plugins.registry import default_registry
from caddtree.runtime.choice import runner_for
from caddtree.runtime.tensor_parallel import group_for, load_sharded, local_part, weights_digest


def load(
    recipe: str | os.PathLike[str] | Recipe | Mapping[str, Any],
    overrides: Mapping[str, Any] | None = None,
    *,
    sets: Sequence[str] = (),
    model: Any = None,
    tokenizer: Any = None,
    observers: Sequence[Observer] = (),
) -> Decoder:
    """Return the decoder of a recipe.

    Where ``torchrun`` started several processes and ``target.parallel`` is ``tensor``, every one of them calls this,
    and later the decoder, with the same arguments.

    Args:
        recipe: The name of a shipped recipe, the path of a YAML file, or a recipe.
        overrides: Sections whose keys replace the recipe's.
        sets: ``a.b=value`` texts that replace single keys.
        model: A Hugging Face causal LM to use instead of loading the recipe's target.
        tokenizer: Its tokenizer.
        observers: Watch besides those of the recipe.

    Raises:
        RecipeError: With every error of the recipe.
        CheckpointError: If a model cannot be loaded.
        CompatibilityError: If two parts cannot work together, or processes were started with different recipes.
        GroupError: If another process fails while it loads.
    """
    if model is None and tokenizer is not None:
        raise CompatibilityError("a tokenizer was given without its model; give both, or neither")
    checked = load_recipe(recipe, overrides, sets)
    group = group_for(checked.target.parallel, checked.target.device)
    with group.together("loading"):
        group.meet("a recipe", lambda: _facts(checked.to_mapping()))
        if model is None:
            model, tokenizer = load_model(checked.target)
        if group.size > 1 and not is_sharded(model):
            raise CompatibilityError(
                "target.parallel is tensor, but the model that was given is whole; load it with load_model"
            )
        return _decoder(checked, model, tokenizer, observers, group)


def _decoder(checked: Recipe, model: Any, tokenizer: Any, observers: Sequence[Observer], group: Group) -> Decoder:
    registry = default_registry()
    strategies = {kind: registry.create(kind, checked.stage(kind).name, checked.stage(kind).options) for kind in STAGES}
    made = [registry.create("observer", choice.name, choice.options) for choice in checked.observers]
    if group.rank > 0:
        # the first process speaks for all; a rule must be there in each, because all wait for its answer
        made = [_RuleAlone(observer.ends_text) for observer in made if hasattr(observer, "ends_text")]
    target = Target(
        model,
        prefill_chunk=checked.target.prefill_chunk,
        context_limit=checked.target.context_limit,
        fingerprint=None if tokenizer is None else target_fingerprint(model.config, tokenizer),
        num_tokens=None if tokenizer is None else len(tokenizer),
        runner=runner_for(model, checked.runtime),
        group=group,
    )
    return Decoder(
        target=target, tokenizer=tokenizer, options=checked.generation, observers=[*made, *observers], **strategies
    )


@attrs.frozen
class _RuleAlone:
    """A stopping rule without whatever else its observer does."""

    ends_text: Callable[[Sequence[int]], bool]


def load_model(options: TargetOptions) -> tuple[Any, Any]:
    """Return the target's Hugging Face model, in eval mode on its device, and its tokenizer.

    Under tensor parallelism it is this process's part of the model, and all processes must call this.
    Only safetensors weights are opened and no code of a model folder is run.

    Raises:
        CheckpointError: Naming the model and what is wrong.
        CompatibilityError: If there is no such device, or the processes cannot share the model.
        GroupError: If another process fails while it loads.
    """
    group = group_for(options.parallel, options.device)
    with group.together("loading the target"):
        group.meet("loading the target", lambda: _facts({"target": attrs.asdict(options)}))
        model, tokenizer = _load_model(options, group.size)
        group.meet("a loaded target", lambda: _model_facts(model, tokenizer))
        return model, tokenizer


def _load_model(options: TargetOptions, num_processes: int) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # a shard is loaded where it stays
    device = _device(options.device) if num_processes == 1 else None
    name = options.model
    if _looks_local(name) or Path(name).is_dir():
        name = str(Path(name).expanduser())
        if not Path(name).is_dir():
            raise CheckpointError(f"target.model {options.model}: no such folder")
    dtype = options.dtype if options.dtype == "auto" else getattr(torch, options.dtype)
    try:
        with _no_loading_bar():
            if device is None:
                model, found = load_sharded(name, dtype, num_processes)
            else:
                model, found = AutoModelForCausalLM.from_pretrained(
                    name, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
                )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except CompatibilityError:
        raise
    except Exception as error:
        detail = str(error).strip().splitlines()
        raise CheckpointError(
            f"target.model {options.model}: cannot be loaded (safetensors weights of a known architecture are needed): "
            f"{type(error).__name__}: {detail[0] if detail else ''}"
        ) from error
    _check_weights(model, found, options.model)
    return (model if device is None else model.to(device)).eval(), tokenizer


def _device(device: str) -> str:
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise CompatibilityError(f"target.device is {device}, but this machine shows no CUDA device; use auto or cpu")
    return device


def _facts(sections: Mapping[str, Any]) -> dict[str, str]:
    """Return what must be the same in all processes that share a target: versions, and the recipe key by key."""
    import torch
    import transformers

    facts = {"caddtree": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    for section, values in sections.items():
        keys = values if isinstance(values, Mapping) else {"": values}
        facts.update({f"{section}.{key}".rstrip("."): json.dumps(value) for key, value in keys.items()})
    return facts


def _model_facts(model: Any, tokenizer: Any) -> dict[str, str]:
    """Return the identity of a model that was loaded."""
    return {"fingerprint": target_fingerprint(model.config, tokenizer), "weights": weights_digest(model)}


def _check_weights(model: Any, found: Mapping[str, Any], name: str) -> None:
    """Refuse what Transformers only mentions: it fills missing tensors with random numbers."""
    import torch

    for kind in ("missing", "unexpected", "mismatched"):
        for key in sorted(found.get(f"{kind}_keys", ()), key=str):
            raise CheckpointError(f"target.model {name}: {kind} tensor {key}; the checkpoint does not fit its config")
    for key, weight in model.named_parameters():
        if not bool(torch.isfinite(local_part(weight)).all()):
            raise CheckpointError(f"target.model {name}: the tensor {key} holds NaN or infinity")


@contextmanager
def _no_loading_bar() -> Iterator[None]:
    """Keep Transformers' bar off standard error, where answers are streamed and scripts listen."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def _looks_local(model: str) -> bool:
    return model.startswith((".", "/", "~")) or model.count("/") != 1
