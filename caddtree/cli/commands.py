"""``generate``, ``chat`` and ``compare``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from caddtree.cli.app import command
from caddtree.cli.options import (
    JsonOption,
    MaxNewTokens,
    PromptsOption,
    RecipeOption,
    Seed,
    SetOption,
    Stop,
    Temperature,
    TopK,
    TopP,
    request_options,
)
from caddtree.core.errors import CaddtreeError


@command()
def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue; - reads it from standard input.")],
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
    json_: JsonOption = False,
) -> None:
    """Continue a text, streaming."""
    from caddtree.loading import load

    decoder = load(recipe, sets=set_ or ())
    text = _asked(decoder, sys.stdin.read) if prompt == "-" else prompt
    options = request_options(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    if json_:
        print(json.dumps(decoder.generate(text, **options).to_dict()))
        return
    session = decoder.open(text, **options)
    _stream(session)
    print(_summary(session.generation()), file=sys.stderr)


@command()
def chat(
    recipe: RecipeOption = "demo",
    set_: SetOption = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    stop: Stop = None,
) -> None:
    """Talk with the target; an empty line or the end of input ends the talk."""
    from caddtree.loading import load

    decoder = load(recipe, sets=set_ or ())
    options = request_options(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop=stop
    )
    messages: list[dict[str, str]] = []
    while True:
        line = _asked(decoder, _next_line)
        if not line.strip():
            return
        messages.append({"role": "user", "content": line})
        session = decoder.open(messages, **options)
        _stream(session)
        generation = session.generation()
        print(_summary(generation), file=sys.stderr)
        messages.append({"role": "assistant", "content": generation.text})


@command()
def compare(
    recipes: Annotated[str, typer.Option(help="Recipes, separated by commas; the first is the baseline.")],
    prompts: PromptsOption,
    set_: SetOption = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first prompts of the file.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs per prompt and recipe; the median counts.")] = 1,
    json_: JsonOption = False,
) -> None:
    """Decode the same prompts with several recipes, interleaved, and compare."""
    from caddtree.cli.tables import comparison_table, print_table
    from caddtree.experiments.compare import compare as run
    from caddtree.experiments.prompts import read_prompts

    records = read_prompts(prompts, limit=limit)
    decoders = load_all([name.strip() for name in recipes.split(",") if name.strip()], set_ or ())
    options = request_options(
        max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    with progress(len(records) * len(decoders) * repeats, "decoding", silent=json_) as advance:
        comparison = run(decoders, records, repeats=repeats, on_generation=lambda *_: advance(), **options)
    if json_:
        print(json.dumps(comparison.to_dict()))
    else:
        print_table(comparison_table(comparison))


def load_all(recipes: list[str], sets: Any = ()) -> dict[str, Any]:
    """Return a decoder per recipe; recipes of one target share its weights."""
    from caddtree.core.errors import InputError
    from caddtree.loading import load, load_model
    from caddtree.plugins.recipe import load_recipe

    models: dict[tuple[str, ...], Any] = {}
    decoders = {}
    for name in recipes:
        if name in decoders:
            raise InputError(f"the recipe {name} is named twice; name it once")
        checked = load_recipe(name, sets=sets)
        key = (checked.target.model, checked.target.dtype, checked.target.device, checked.target.parallel)
        if key not in models:
            models[key] = load_model(checked.target)
        model, tokenizer = models[key]
        decoders[name] = load(checked, model=model, tokenizer=tokenizer)
    return decoders


def progress(total: int, what: str, *, silent: bool) -> Any:
    """Return a context manager that gives a function to advance a progress bar on standard error."""
    from contextlib import contextmanager

    from tqdm import tqdm

    @contextmanager
    def bar() -> Any:
        with tqdm(total=total, desc=what, disable=True if silent else None, leave=False) as shown:
            yield shown.update

    return bar()


def _asked(decoder: Any, read: Callable[[], str]) -> str:
    """Return what the user says to the first of the processes that decode together."""
    text = read() if decoder.group.rank == 0 else ""
    decoder.group.meet("what the user says", dict)
    said: str = decoder.group.share(lambda: text)
    return said


def _next_line() -> str:
    try:
        return input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def _stream(session: Any) -> None:
    """Print the answer as it is made, and the end of its line."""
    try:
        print(session.first_chunk.text, end="", flush=True)
        while session.finish_reason is None:
            print(session.step().text, end="", flush=True)
    except CaddtreeError:
        # what was printed stays as it is, also in a file; the line is ended for whoever reads both
        print(file=sys.stderr)
        raise
    print()


def _summary(generation: Any) -> str:
    return (
        f"[{len(generation.token_ids)} tokens, {generation.tokens_per_second:.1f} tokens/s, "
        f"tau {generation.mean_acceptance_length:.2f}, {generation.mean_draft_nodes:.1f} draft nodes per round, "
        f"{generation.finish_reason}{f' by {generation.stopped_by}' if generation.stopped_by else ''}]"
    )
