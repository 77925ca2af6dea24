"""The public face: recipes to decoders, models held or loaded, faults named. FT-05, FT-15, FT-16, FT-25."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch

import caddtree
from caddtree.core.errors import CheckpointError, CompatibilityError, RecipeError
from tests.tiny_models import plain_greedy
from tests.tiny_pair import write_pair


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def decoder(recipe):
    return caddtree.load(recipe)


def test_text_token_ids_and_chats_are_prompts(decoder):
    """All three equal plain greedy decoding of their tokens."""
    model, tokenizer = decoder.target.model, decoder.tokenizer
    chat = [{"role": "user", "content": "the cat"}]
    for prompt, tokens in (
        ("the cat", tokenizer.encode("the cat")),
        ([40, 41, 42], [40, 41, 42]),
        (torch.tensor([40, 41, 42]), [40, 41, 42]),
        (chat, tokenizer.encode("user: the cat\n")),
    ):
        truth = plain_greedy(model, tokens, 12)
        generation = decoder.generate(prompt, max_new_tokens=12)

        assert list(generation.token_ids) == truth
        assert generation.text == tokenizer.decode(truth, skip_special_tokens=True)


def test_streaming_says_what_generate_says(decoder):
    """Pieces joined; token ids joined."""
    chunks = list(decoder.stream("the dog", max_new_tokens=20))
    generation = decoder.generate("the dog", max_new_tokens=20)

    assert "".join(chunk.text for chunk in chunks) == generation.text
    assert sum((chunk.token_ids for chunk in chunks), ()) == generation.token_ids
    assert chunks[0].round is None
    assert all(chunk.round is not None for chunk in chunks[1:])


def test_ft05_stop_strings_end_the_text_and_the_cache(decoder):
    """FT-05: the stop string is not in the text, the KV rows equal what was emitted."""
    whole = decoder.generate("the mat", max_new_tokens=24).text
    stop = whole[7:9]
    session = decoder.open("the mat", max_new_tokens=24, stop=[stop])
    while session.finish_reason is None:
        session.step()
    generation = session.generation()

    assert generation.text == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"
    assert session.target_state.context_length == len(session.tokens) - 1


def test_overrides_and_sets_change_the_pipeline(recipe):
    """One strategy swapped is one key changed; the generation defaults are the recipe's."""
    other = caddtree.load(recipe, {"tree_builder": {"name": "chain"}, "generation": {"max_new_tokens": 3}})
    third = caddtree.load(recipe, sets=["tree_builder.node_budget=2"])

    assert len(other.generate([1]).token_ids) == 3
    assert type(other.tree_builder).__name__ == "Chain"
    assert third.tree_builder.node_budget == 2


def test_a_held_model_is_used_as_it_is(recipe, decoder):
    """No second copy of the weights, and two decoders on one model do not disturb each other."""
    model, tokenizer = decoder.target.model, decoder.tokenizer
    plain = caddtree.load(recipe, {"drafter": {"name": "none"}}, model=model, tokenizer=tokenizer)

    assert plain.target.model is model
    for _ in range(2):
        assert (
            plain.generate([7, 8], max_new_tokens=9).token_ids == decoder.generate([7, 8], max_new_tokens=9).token_ids
        )


def test_every_cost_model_of_a_recipe_decodes_exactly(recipe, decoder, tmp_path, monkeypatch):
    """CaDDTree over measured rounds of this machine, in a cache folder of its own."""
    monkeypatch.setenv("CADDTREE_CACHE_DIR", str(tmp_path))
    held = {"model": decoder.target.model, "tokenizer": decoder.tokenizer}
    truth = decoder.generate([5, 6], max_new_tokens=12).token_ids
    builder = {"name": "caddtree", "max_node_budget": 4}
    for name in ("table", "convex", "analytic"):
        made = caddtree.load(recipe, {"tree_builder": builder, "cost_model": {"name": name}}, **held)
        generation = made.generate([5, 6], max_new_tokens=12)

        assert generation.token_ids == truth
        assert all(round_.predicted_seconds > 0 for round_ in generation.rounds)


def test_ft15_pickled_weights_of_a_target_are_not_opened(tmp_path):
    """FT-15: a folder with pytorch_model.bin only."""
    recipe, trace = write_pair(tmp_path), tmp_path / "trace"

    class Bomb:
        def __reduce__(self):
            return (open, (str(trace), "w"))

    (tmp_path / "target" / "model.safetensors").unlink()
    (tmp_path / "target" / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(CheckpointError, match="safetensors"):
        caddtree.load(recipe)
    assert not trace.exists()


LOAD_AND_RUN = """
import sys
import caddtree
from caddtree.core.errors import CaddtreeError
for recipe in sys.argv[1:]:
    try:
        print(len(caddtree.load(recipe).generate([40, 41], max_new_tokens=4).token_ids))
    except CaddtreeError as error:
        print(type(error).__name__, error)
"""


def plant_code(folder, trace, **config):
    """Put modules that leave a trace into a model folder, and let every config there name them."""
    for name in ("surprise.py", "dflash.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"open({str(trace)!r}, 'w')\n")
    classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "surprise.X")
    for path in (folder / "config.json", folder / "tokenizer_config.json", folder / "generation_config.json"):
        if path.exists():
            kept = json.loads(path.read_text())
            names = {"AutoTokenizer": ["surprise.X", "surprise.X"]} if path.stem == "tokenizer_config" else classes
            path.write_text(json.dumps({**kept, "auto_map": names, **config.get(path.stem, {})}))


@pytest.fixture(scope="module")
def folders_with_code(tmp_path_factory):
    """Recipes whose model folders carry code, what loading each of them says, and the trace that no one may leave."""
    root = tmp_path_factory.mktemp("code")
    trace = root / "trace"

    def pair(name, part="target", text="", **config):
        recipe = write_pair(root / name)
        for folder in ("target", "drafter"):
            plant_code(root / name / folder, trace, **(config if folder == part else {}))
        recipe.write_text(recipe.read_text().replace(f"model: ./{part}", f"model: ./{part}{text}"))
        return recipe

    unknown = {"model_type": "surprise", "architectures": ["Surprise"]}
    recipes = {
        pair("known"): "4",
        pair("unknown-target", config=unknown): "CheckpointError",
        pair("unknown-tokenizer", tokenizer_config={"tokenizer_class": "Surprise"}): "",
        pair("unknown-drafter", "drafter", config=unknown): "CheckpointError",
        pair("asking-target", text=", trust_remote_code: true"): "RecipeError",
        pair("asking-drafter", "drafter", text=", trust_remote_code: true"): "RecipeError",
    }
    return recipes, trace


# -O compiles all of torch anew
@pytest.mark.parametrize("flags", [[], pytest.param(["-O"], marks=pytest.mark.slow)], ids=["plain", "optimised"])
@pytest.mark.parametrize("stdin", ["closed", "yes"])
def test_ft16_code_in_model_folders_is_not_run_and_nobody_is_asked(folders_with_code, stdin, flags):
    """FT-16: target, tokenizer, generation and drafter, whatever the recipe says; no answer on stdin is waited for."""
    recipes, trace = folders_with_code
    command = [sys.executable, *flags, "-c", LOAD_AND_RUN, *map(str, recipes)]
    if stdin == "closed":
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    done = subprocess.run(
        command,
        input="y\n" * 99 if stdin == "yes" else None,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    assert done.returncode == 0, done.stderr
    for line, expected in zip(done.stdout.splitlines(), recipes.values(), strict=True):
        assert line.startswith(expected), line
    assert "[y/N]" not in done.stdout + done.stderr
    assert not trace.exists()


def test_a_missing_folder_and_a_missing_device_are_named(recipe):
    """Before anything is loaded."""
    with pytest.raises(CheckpointError, match="no such folder"):
        caddtree.load(recipe, {"target": {"model": "./nowhere"}})
    if not torch.cuda.is_available():
        with pytest.raises(CompatibilityError, match="cuda:0"):
            caddtree.load(recipe, {"target": {"device": "cuda:0"}})


def test_a_wrong_recipe_lists_its_errors(recipe):
    """Unknown strategy and option, with the nearest names."""
    with pytest.raises(RecipeError, match="ddtree") as caught:
        caddtree.load(recipe, {"tree_builder": {"name": "dtree"}, "target": {"modle": "x"}})
    assert "model" in str(caught.value)


def test_an_unknown_public_name_is_an_attribute_error():
    """The lazy face stays honest."""
    with pytest.raises(AttributeError, match="nonsense"):
        caddtree.nonsense  # noqa: B018
    assert set(caddtree.__all__) <= {*dir(caddtree), *caddtree._HOMES}
