"""A tiny random pair with a byte-level tokenizer, on disk, and a recipe for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.drafters.checkpoints import tiny_checkpoint
from tests.tiny_models import tiny_model

SIZE = 300


def tiny_tokenizer() -> Any:
    """Byte-level BPE of 300 entries: nearly every character of other scripts takes several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the cat sat on the mat and the dog sat on the cat"] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", clean_up_tokenization_spaces=False)
    fast.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    return fast


def write_pair(folder: Path, *, builder: str = "{name: ddtree, node_budget: 6}") -> Path:
    """Write target, drafter and ``recipe.yaml``; return the recipe's path."""
    target = folder / "target"
    tiny_model(vocab_size=SIZE, seed=4).save_pretrained(target)
    tiny_tokenizer().save_pretrained(target)
    tiny_checkpoint(folder / "drafter", vocab_size=SIZE)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "target: {model: ./target}\n"
        "drafter: {name: dflash, model: ./drafter}\n"
        f"tree_builder: {builder}\n"
        "cost_model: {name: analytic, flops_per_second: 1.0e9, bytes_per_second: 1.0e9, overhead_seconds: 0.001, "
        "draft_seconds: 0.001}\n"
        "generation: {max_new_tokens: 24}\n"
    )
    return recipe
