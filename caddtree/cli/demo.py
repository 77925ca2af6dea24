"""``demo``: the shipped prompts with the shipped pair, four ways, side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from caddtree.cli.app import command
from caddtree.cli.options import JsonOption

DEMO_RECIPES = ("demo-plain", "demo-chain", "demo-ddtree", "demo")
DEMO_PROMPTS = Path(__file__).parent.parent / "models" / "demo" / "prompts" / "demo.jsonl"


@command()
def demo(
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per prompt at most.")] = 128,
    json_: JsonOption = False,
) -> None:
    """Decode real prompts: plain decoding, DFlash chain, DDTree and CaDDTree side by side."""
    from caddtree.cli.commands import load_all, progress
    from caddtree.cli.tables import comparison_table, print_table
    from caddtree.experiments.compare import compare
    from caddtree.experiments.prompts import read_prompts

    records = read_prompts(DEMO_PROMPTS)
    decoders = load_all(list(DEMO_RECIPES))
    if not json_:
        _show_one(decoders["demo"], records[0].prompt, max_new_tokens)
    with progress(len(records) * len(decoders), "comparing", silent=json_) as advance:
        comparison = compare(decoders, records, max_new_tokens=max_new_tokens, on_generation=lambda *_: advance())
    if json_:
        print(json.dumps(comparison.to_dict()))
    else:
        print_table(comparison_table(comparison))
    if not all(variant.identical for variant in comparison.variants):
        print("error: an output differs from plain decoding; please report this", file=sys.stderr)
        raise typer.Exit(1)


def _show_one(decoder, prompt, max_new_tokens: int) -> None:  # type: ignore[no-untyped-def]
    """Stream one answer and draw the tree of its best round."""
    from caddtree.cli.tables import tree_picture

    question = prompt if isinstance(prompt, str) else prompt[0]["content"]
    print(f"> {question}\n")
    session = decoder.open(prompt, max_new_tokens=max_new_tokens)
    print(session.first_chunk.text, end="", flush=True)
    best = None
    while session.finish_reason is None:
        chunk = session.step()
        print(chunk.text, end="", flush=True)
        if chunk.round is not None and (best is None or _interest(chunk.round) > _interest(best[1])):
            best = (session.last_tree, chunk.round)
    print("\n")
    if best is not None:
        tree, round_ = best
        bonus = decoder.tokenizer.decode([round_.tokens[-1]])
        print(
            f"Round {round_.index + 1}: {round_.num_draft_nodes} draft nodes chosen, "
            f"{round_.num_accepted} accepted (*), then the bonus token {bonus!r}:"
        )
        print(tree_picture(tree, round_.path, decoder.tokenizer))
        print()


def _interest(round_) -> tuple[bool, int]:  # type: ignore[no-untyped-def]
    # a tree that branches and whose accepted path left the arg-max chain shows most
    left_chain = any(node != index for index, node in enumerate(round_.path))
    return left_chain, round_.num_accepted
