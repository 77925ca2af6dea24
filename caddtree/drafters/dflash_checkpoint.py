"""Reads and writes DFlash checkpoints: ``config.json`` beside safetensors, in the public layout.

Nothing but JSON and safetensors is ever opened: no remote code, no pickles.

Source: the format of ``z-lab/Qwen3-4B-DFlash-b16`` and ``-8B-``; DFlash, arXiv:2602.06036.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caddtree.core.errors import CheckpointError
from caddtree.drafters.dflash_network import DFlashConfig, DFlashNetwork

_DFLASH_KEYS = {
    "target_layer_ids",
    "mask_token_id",
    "block_size",
    "input_embedding_scale",
    "output_multiplier",
    "final_logit_softcapping",
}
_FOREIGN_KEYS = ("selector_rank", "projector_type", "markov_rank", "num_experts")
_FLOATS = {torch.float32, torch.float16, torch.bfloat16, torch.float64}


def locate(model: str) -> Path:
    """Return the folder of a checkpoint: a local folder, or a hub id that is fetched (JSON and safetensors only).

    Raises:
        CheckpointError: If there is neither.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise CheckpointError(f"{model}: no such folder. Give a folder with config.json, or a hub id like owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:
        raise CheckpointError(f"{model}: neither a folder nor a model that the hub gives: {error}") from error


def read_config(folder: Path) -> DFlashConfig:
    """Return the parsed ``config.json``.

    Raises:
        CheckpointError: Naming the file, the field and what was found.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot read the drafter's config: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, found {type(raw).__name__}")
    _refuse_other_kinds(raw, path)
    dflash = raw.get("dflash_config") or {}
    num_layers, num_target_layers = _integer(raw, "num_hidden_layers", path), _integer(raw, "num_target_layers", path)
    block_size = dflash.get("block_size", raw.get("block_size"))
    return DFlashConfig(
        hidden_size=_integer(raw, "hidden_size", path),
        intermediate_size=_integer(raw, "intermediate_size", path),
        num_layers=num_layers,
        num_heads=_integer(raw, "num_attention_heads", path),
        num_key_value_heads=_integer(raw, "num_key_value_heads", path),
        head_dim=_integer({"head_dim": raw["hidden_size"] // raw["num_attention_heads"], **raw}, "head_dim", path),
        vocabulary_size=_integer(raw, "vocab_size", path),
        block_size=_integer({"block_size": block_size}, "block_size", path, minimum=2),
        mask_token_id=_integer(dflash, "mask_token_id", path, minimum=0),
        target_layer_ids=_layer_ids(dflash, num_layers, num_target_layers, path),
        num_target_layers=num_target_layers,
        rope_theta=_rope_theta(raw, path),
        rms_norm_eps=_number(raw, "rms_norm_eps", 1e-6, path),
        attention_bias=bool(raw.get("attention_bias", False)),
        max_position_embeddings=_integer({"max_position_embeddings": 32768, **raw}, "max_position_embeddings", path),
        windows=_windows(raw, num_layers, path),
        input_embedding_scale=_number(dflash, "input_embedding_scale", 1.0, path),
        output_multiplier=_number(dflash, "output_multiplier", 1.0, path),
        final_logit_softcapping=_number(dflash, "final_logit_softcapping", None, path),
        target_fingerprint=raw.get("target_fingerprint"),
    )


def load_network(folder: Path, config: DFlashConfig, dtype: torch.dtype, device: torch.device) -> DFlashNetwork:
    """Return the draft model with every tensor of the checkpoint, and no other, in place.

    Raises:
        CheckpointError: For a damaged file, or a tensor that is missing, unexpected, of another shape, of no
            floating-point type, or not finite; names the tensor.
    """
    with torch.device("meta"):
        network = DFlashNetwork(config)
    expected = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    tensors = _read_tensors(folder)
    for name in sorted(set(expected) - set(tensors)):
        raise CheckpointError(f"{folder}: the tensor {name} is missing")
    for name in sorted(set(tensors) - set(expected)):
        raise CheckpointError(f"{folder}: unexpected tensor {name}; is this another kind of drafter?")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json asks for {expected[name]}"
            )
        if tensor.dtype not in _FLOATS:
            raise CheckpointError(f"{folder}: {name} is of type {tensor.dtype}; weights must be floating point")
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{folder}: {name} holds NaN or infinity")
    network.load_state_dict(
        {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors.items()}, strict=True, assign=True
    )
    return network.eval().requires_grad_(False)


def write_checkpoint(folder: Path, network: DFlashNetwork, *, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a draft model in the public layout."""
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config
    raw = {
        "architectures": ["DFlashDraftModel"],
        "auto_map": {"AutoModel": "dflash.DFlashDraftModel"},
        "model_type": "qwen3",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "attention_bias": config.attention_bias,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": False,
        "dtype": str(dtype).removeprefix("torch."),
        "block_size": config.block_size,
        "num_target_layers": config.num_target_layers,
        "dflash_config": {
            "mask_token_id": config.mask_token_id,
            "target_layer_ids": list(config.target_layer_ids),
        },
        "target_fingerprint": config.target_fingerprint,
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().to(dtype).contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def describe(config: DFlashConfig) -> str:
    """Return one line with the fields whose fault nobody notices but for a low acceptance."""
    return (
        f"dflash: layers {list(config.target_layer_ids)} of {config.num_target_layers}, block {config.block_size}, "
        f"mask token {config.mask_token_id}, rope base {config.rope_theta:g}, {config.num_layers} draft layers, "
        f"slot k at position context + k"
    )


def _refuse_other_kinds(raw: dict[str, Any], path: Path) -> None:
    architectures = raw.get("architectures") or ["DFlashDraftModel"]
    if architectures != ["DFlashDraftModel"]:
        raise CheckpointError(f"{path}: architecture {architectures} is not a DFlash drafter (DFlashDraftModel)")
    for key in _FOREIGN_KEYS:
        if raw.get(key):
            raise CheckpointError(f"{path}: {key} belongs to another kind of drafter, which this loader does not know")
    if raw.get("model_type", "qwen3") != "qwen3":
        raise CheckpointError(f"{path}: model_type must be qwen3, found {raw['model_type']!r}")
    dflash = raw.get("dflash_config")
    if dflash is not None and not isinstance(dflash, dict):
        raise CheckpointError(f"{path}: dflash_config must be an object, found {type(dflash).__name__}")
    for key in sorted(set(dflash or {}) - _DFLASH_KEYS):
        raise CheckpointError(
            f"{path}: dflash_config.{key} is unknown; known are {', '.join(sorted(_DFLASH_KEYS))}. "
            f"Another generation of drafters would load wrongly."
        )
    if raw.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{path}: hidden_act must be silu, found {raw['hidden_act']!r}")


def _integer(raw: dict[str, Any], name: str, path: Path, *, minimum: int = 1) -> int:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise CheckpointError(f"{path}: {name} must be an integer of at least {minimum}, found {value!r}")
    return value


def _number(raw: dict[str, Any], name: str, default: Any, path: Path) -> Any:
    value = raw.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 and math.isfinite(value)):
        raise CheckpointError(f"{path}: {name} must be a number above 0, found {value!r}")
    return float(value)


def _layer_ids(dflash: dict[str, Any], num_layers: int, num_target: int, path: Path) -> tuple[int, ...]:
    found = dflash.get("target_layer_ids")
    if found is None:
        # older files: spread evenly, as the public code does
        if num_layers == 1:
            return (num_target // 2,)
        return tuple(round(1 + index * (num_target - 4) / (num_layers - 1)) for index in range(num_layers))
    good = isinstance(found, list) and found and all(isinstance(entry, int) for entry in found)
    if not good or found != sorted(set(found)) or not 0 <= found[0] <= found[-1] < num_target:
        raise CheckpointError(
            f"{path}: dflash_config.target_layer_ids must be ascending layers in 0..{num_target - 1}, found {found!r}"
        )
    return tuple(found)


def _rope_theta(raw: dict[str, Any], path: Path) -> float:
    rope = raw.get("rope_parameters") or {}
    scaling = raw.get("rope_scaling") or {}
    if not isinstance(rope, dict) or not isinstance(scaling, dict):
        raise CheckpointError(f"{path}: rope_parameters and rope_scaling must be objects, found {rope!r}, {scaling!r}")
    kind = rope.get("rope_type", scaling.get("rope_type", scaling.get("type", "default")))
    if kind != "default":
        raise CheckpointError(f"{path}: rope type {kind!r} is not supported in a drafter")
    # the newer field wins where both stand, as in Transformers 5
    theta = rope.get("rope_theta", raw.get("rope_theta"))
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not (theta > 0 and math.isfinite(theta)):
        raise CheckpointError(
            f"{path}: rope_theta (at the top level or in rope_parameters) must be a positive number, found {theta!r}"
        )
    return float(theta)


def _windows(raw: dict[str, Any], num_layers: int, path: Path) -> tuple[int | None, ...]:
    types = raw.get("layer_types")
    if types is None:
        return ()
    if (
        not isinstance(types, list)
        or len(types) != num_layers
        or set(map(str, types)) - {"full_attention", "sliding_attention"}
    ):
        raise CheckpointError(f"{path}: layer_types must name {num_layers} full or sliding layers, found {types!r}")
    if "sliding_attention" not in types:
        return ()
    window = raw.get("sliding_window")
    if not isinstance(window, int) or window < 1:
        raise CheckpointError(f"{path}: sliding layers need sliding_window, found {window!r}")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(
            path.name for path in folder.iterdir() if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
        )
        found = f", found {others[0]}" if others else ""
        raise CheckpointError(f"{folder}: no .safetensors file{found}; only safetensors weights are opened")
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118 -- not a dict
                    tensors[name] = handle.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: damaged safetensors file: {error}") from error
    return tensors
