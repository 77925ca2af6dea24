"""A model that the caller holds: used without a copy, given back as it was, and decoded from when it is wrapped."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch

import caddtree
from caddtree.core.errors import CompatibilityError, InputError, StageError
from tests.tiny_models import plain_greedy, tiny_model
from tests.tiny_pair import SIZE, tiny_tokenizer, write_pair

PROMPT = [40, 41, 42, 40, 41]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def model():
    return tiny_model(vocab_size=SIZE, seed=4)


def facts(model, *, hooks=True):
    """What a user of the model could notice, the outputs bit for bit."""
    ids = torch.tensor([PROMPT])
    with torch.no_grad():
        logits = model(ids).logits
    return {
        "attention": model.config._attn_implementation,
        "config": copy.deepcopy(model.config.to_dict()),
        "generation_config": copy.deepcopy(model.generation_config.to_dict()),
        "training": [module.training for module in model.modules()],
        "grad": [parameter.requires_grad for parameter in model.parameters()],
        "hooks": [len(module._forward_hooks) for module in model.modules()] if hooks else None,
        "other hooks": [len(module._forward_pre_hooks) + len(module._backward_hooks) for module in model.modules()],
        "own forwards": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "state": [(name, tensor.data_ptr(), tensor.tolist()) for name, tensor in model.state_dict().items()],
        "buffers": [(name, tensor.tolist()) for name, tensor in model.named_buffers()],
        "logits": logits.tolist(),
        "generate": model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, pad_token_id=0).tolist(),
    }


def use(decoder, model):
    """Every way of decoding: to the end, given up in the middle, by generate, refused, broken."""
    decoder.generate("the cat", max_new_tokens=9)
    next(iter(decoder.stream("the dog")))
    ids = torch.tensor([PROMPT])
    call = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "pad_token_id": 0}
    model.generate(ids, **call, custom_generate=decoder.custom_generate)
    model.generate(ids, **call, do_sample=True, repetition_penalty=1.2, custom_generate=decoder.custom_generate)
    with pytest.raises(InputError):
        model.generate(ids, **call, num_beams=2, custom_generate=decoder.custom_generate)

    def broken(tokens, scores):
        if tokens.shape[1] > len(PROMPT) + 2:
            raise RuntimeError("no")
        return scores

    with pytest.raises(StageError):
        model.generate(ids, **call, logits_processor=[broken], custom_generate=decoder.custom_generate)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_held_model_is_as_it_was_while_it_is_used_and_afterwards(recipe, model, tokenizer, attention):
    """Its taps are hooks that change nothing; closing the target takes them off."""
    model.set_attn_implementation(attention)
    model.generation_config.update(temperature=0.6, top_k=7, do_sample=False)
    before, before_but_hooks = facts(model), facts(model, hooks=False)
    decoder = caddtree.load(recipe, model=model, tokenizer=tokenizer)
    use(decoder, model)

    assert decoder.target.model is model
    assert facts(model, hooks=False) == before_but_hooks
    decoder.target.close()
    assert facts(model) == before


def test_two_decoders_on_one_model_decode_in_turns(recipe, model, tokenizer):
    """Round by round, one with taps and one without; both say what plain decoding says."""
    truth = plain_greedy(model, PROMPT, 16)
    first = caddtree.load(recipe, model=model, tokenizer=tokenizer)
    second = caddtree.load(recipe, {"drafter": {"name": "ngram"}}, model=model, tokenizer=tokenizer)
    sessions = [decoder.open(PROMPT, max_new_tokens=16) for decoder in (first, second, first)]
    while any(session.finish_reason is None for session in sessions):
        for session in sessions:
            if session.finish_reason is None:
                session.step()

    assert [list(session.generation().token_ids) for session in sessions] == [truth] * 3


def test_without_a_tokenizer_token_ids_are_prompts_and_text_is_refused(recipe, model):
    """Each time it is needed it is asked for by name."""
    decoder = caddtree.load(recipe, model=model)

    assert list(decoder.generate(PROMPT, max_new_tokens=6).token_ids) == plain_greedy(model, PROMPT, 6)
    assert decoder.generate(PROMPT, max_new_tokens=6).text == ""
    for prompt, options in (("text", {}), ([{"role": "user", "content": "text"}], {}), (PROMPT, {"stop": ["x"]})):
        with pytest.raises(InputError, match="tokenizer, but this decoder has none"):
            decoder.generate(prompt, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 48}, "hidden_size of .* is 32, but the target's is 48"),
        ({"num_hidden_layers": 5}, "num_target_layers of .* is 4, but the target's is 5"),
        ({"num_hidden_layers": 2}, r"the target has 2 layers\), found \[0, 2\]"),
        ({"vocab_size": 290}, "vocab_size of .* is 300, but the target's is 290"),
    ],
)
def test_a_model_of_other_shapes_than_the_drafters_is_refused_with_both(recipe, changes, message):
    """Before anything is decoded."""
    with pytest.raises(CompatibilityError, match=message):
        caddtree.load(recipe, model=tiny_model(**{"vocab_size": SIZE, **changes}))


def test_a_decoder_that_is_dropped_leaves_nothing_on_the_model(recipe, model, tokenizer):
    """No hook, and nothing that a hook would keep alive."""
    before = facts(model)
    decoder = caddtree.load(recipe, model=model, tokenizer=tokenizer)
    decoder.generate(PROMPT, max_new_tokens=3)
    target = weakref.ref(decoder.target)
    del decoder
    gc.collect()

    assert target() is None
    assert facts(model) == before


def test_a_model_in_training_mode_is_refused(recipe, model, tokenizer):
    """By name, before its dropout makes something else look wrong."""
    with pytest.raises(CompatibilityError, match=r"training mode.*model\.eval\(\)"):
        caddtree.load(recipe, model=model.train(), tokenizer=tokenizer)


def test_a_tokenizer_without_its_model_is_refused(recipe, tokenizer):
    """It would not be used."""
    with pytest.raises(CompatibilityError, match="tokenizer was given without its model"):
        caddtree.load(recipe, tokenizer=tokenizer)


@pytest.mark.parametrize("how", ["wrapper", "in place", "its forward"])
def test_a_compiled_model_is_decoded_from_without_being_compiled(recipe, model, tokenizer, how):
    """Whichever way torch.compile was used."""
    truth = plain_greedy(model, PROMPT, 8)
    if how == "wrapper":
        model = torch.compile(model)
    elif how == "in place":
        model.compile()
    else:
        model.forward = torch.compile(model.forward)
    decoder = caddtree.load(recipe, model=model, tokenizer=tokenizer)
    ids = torch.tensor([PROMPT])
    call = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "custom_generate": decoder.custom_generate}

    assert list(decoder.generate(PROMPT, max_new_tokens=8).token_ids) == truth
    assert model.generate(ids, **call).tolist() == [[*PROMPT, *truth]]


def calls(model, decoder):
    ids = torch.tensor([PROMPT])
    call = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "pad_token_id": 0}
    return model.generate(**call).tolist(), model.generate(**call, custom_generate=decoder.custom_generate).tolist()


class Adapted(torch.nn.Module):
    """A wrapper as PEFT's are: it holds the model, and passes on what it does not have itself."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)

    def get_base_model(self):
        return self.base_model

    def forward(self, *args, **kwargs):
        return self.base_model(*args, **kwargs)

    def generate(self, **kwargs):
        return self.base_model.generate(**kwargs)


class LowRank(torch.nn.Module):
    """A linear layer with an adapter beside it."""

    def __init__(self, linear):
        super().__init__()
        self.base_layer = linear
        self.down = torch.nn.Linear(linear.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, linear.out_features, bias=False)

    def forward(self, rows):
        return self.base_layer(rows) + self.up(self.down(rows))


@pytest.mark.parametrize("holds", ["the wrapper", "the model inside"])
def test_a_model_with_adapters_decodes_with_them(recipe, model, tokenizer, holds):
    """Wherever ``generate`` is called, the decoder knows its target again."""
    without = plain_greedy(model, PROMPT, 8)
    torch.manual_seed(0)
    for layer in model.model.layers:
        layer.self_attn.q_proj = LowRank(layer.self_attn.q_proj)
    wrapper = Adapted(model).eval()
    decoder = caddtree.load(recipe, model=wrapper if holds == "the wrapper" else model, tokenizer=tokenizer)
    truth = plain_greedy(model, PROMPT, 8)
    plain, ours = calls(wrapper, decoder)

    assert truth != without
    assert plain == ours == [[*PROMPT, *truth]]
    assert list(decoder.generate(PROMPT, max_new_tokens=8).token_ids) == truth
