"""The model class that the harness instantiates for ``--model caddtree``."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

import caddtree
from caddtree.core.acceptance import check_finite
from caddtree.core.errors import InputError
from caddtree.core.options import GenerationOptions
from caddtree.interop.lm_eval.arguments import (
    HARNESS_DEVICE,
    check_batch_size,
    generation_options,
    recipe_changes,
    unused_options,
)
from caddtree.interop.lm_eval.figures import SpeedFigures
from caddtree.loading import load
from caddtree.plugins.recipe import Recipe, load_recipe, shipped_recipes

# a child of the harness's own logger: its command line shows no other
logger = logging.getLogger("lm_eval.caddtree")


class CaddtreeLM(TemplateLM):  # type: ignore[misc]  # mypy does not see the harness's types
    """One decoder; generation is speculative, likelihoods are plain forwards of its target.

    Args:
        recipe: A shipped name, the path of a YAML file, or a recipe.
        batch_size: 1 or ``auto``; sequences are decoded one at a time.
        max_batch_size: A bound on ``auto``, which 1 always keeps.
        device: Where the target runs. The harness says ``cuda:0`` when its user says nothing, so that value and None
            leave the choice to the recipe.
        trust_remote_code: For the data sets; the code of a model folder is never run.
        chat_template_args: Variables of the chat template, such as ``{"enable_thinking": False}``.
        **changes: Keys of the recipe and their values, such as ``tree_builder.node_budget``.

    Raises:
        InputError: If an argument cannot be honoured.
        RecipeError: With every error of the recipe and its changes.
    """

    def __init__(
        self,
        recipe: str | os.PathLike[str] | Recipe | None = None,
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        chat_template_args: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> None:
        super().__init__()
        if recipe is None:
            raise InputError(f"model_args need recipe=NAME, one of {', '.join(shipped_recipes())}, or recipe=FILE.yaml")
        check_batch_size(batch_size)
        sets, sections = recipe_changes(changes, device)
        self.recipe = load_recipe(recipe, sections, sets)
        self.decoder = load(self.recipe)
        self.tokenizer = self.decoder.tokenizer
        self.speed = SpeedFigures()
        self._device = self.decoder.target.device
        self._chat_template_args = dict(chat_template_args or {})
        self._chat_template: str | None = None
        self._log_what_gives_way(device, trust_remote_code)

    @property
    def max_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self.decoder.target.position_limit

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        token: int | None = self.tokenizer.eos_token_id
        if token is None:
            raise InputError("the tokenizer has no end-of-text token, and a likelihood without context needs one")
        return token

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has no context."""
        token: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if token is None else token

    @property
    def tokenizer_name(self) -> str:
        """Key of the harness's cache of requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the template of that name, which all prompts are written by from now on."""
        self._chat_template = super().chat_template(chat_template)
        return self._chat_template

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a chat as text; a last message of the assistant is left open when no answer is prompted for."""
        if not self.tokenizer.chat_template:
            raise InputError("the tokenizer has no chat template; leave out --apply_chat_template")
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            chat_template=self._chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **self._chat_template_args,
        )
        return text

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Return the token ids of a text; no special tokens where its template has written the first one already."""
        if add_special_tokens is None:
            bos = self.tokenizer.bos_token
            add_special_tokens = not (bos and string.startswith(bos))
        tokens: list[int] = self.tokenizer.encode(string, add_special_tokens=add_special_tokens)
        return tokens

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the answers, each up to its first stop string; log how fast they came."""
        # everything is checked before the first answer: some runs take a day
        options = self._options([request.args[1] for request in requests])
        prompts = self._prompts([request.args[0] for request in requests], options)
        # measuring the machine may take a minute, which is no part of the first request
        self.decoder.prepare()
        texts = []
        for request, prompt, option in tqdm(
            list(zip(requests, prompts, _own_seeds(prompts, options), strict=True)),
            desc="Running generate_until requests",
            disable=self._has_no_bar(disable_tqdm),
        ):
            generation = self.decoder.generate(prompt, **attrs.asdict(option, recurse=False))
            self.speed = self.speed.plus(generation)
            texts.append(generation.text)
            self.cache_hook.add_partial("generate_until", request.args, generation.text)
        logger.info("caddtree: %s", self.speed)
        return texts

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of every text, in windows of the context that overlap by one token."""
        totals = []
        for request in tqdm(
            requests, desc="Running loglikelihood_rolling requests", disable=self._has_no_bar(disable_tqdm)
        ):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            total = sum(self._score(*make_disjoint_window(window))[0] for window in windows)
            totals.append(total)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes beside the results: the recipe as it ran, and its speed."""
        model = self.decoder.target.model
        return {
            "model_num_parameters": model.num_parameters(),
            "model_dtype": str(model.dtype),
            "caddtree_version": caddtree.__version__,
            "recipe": self.recipe.to_mapping(),
            "speed": self.speed.to_dict(),
        }

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        # the last token is predicted, not read
        limits = [self.max_length + 1] * len(requests)
        self._log_cut([len(context) + len(continuation) for _, context, continuation in requests], limits)
        answers = []
        for texts, context, continuation in tqdm(
            requests, desc="Running loglikelihood requests", disable=self._has_no_bar(disable_tqdm)
        ):
            if not 0 < len(continuation) <= self.max_length:
                raise InputError(
                    f"the continuation {texts[1]!r} has {len(continuation)} tokens of its own; it needs at least one, "
                    f"and at most the {self.max_length} that the context holds"
                )
            answers.append(self._score(context, continuation))
            self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
        return answers

    @torch.inference_mode()
    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Return the log-probability of a continuation, and whether greedy decoding would write it."""
        target = self.decoder.target
        tokens = torch.tensor((context + continuation)[-(self.max_length + 1) :], device=target.device)
        wanted = tokens[-len(continuation) :]
        hidden = target.model.get_decoder()(tokens[None, :-1], use_cache=False).last_hidden_state[0]
        # of the wanted rows alone: those of a long context would fill the memory
        logits = target.head_logits(hidden[-len(continuation) :]).float()
        best, choices = logits.max(dim=-1)
        check_finite(best, len(tokens) - len(continuation))
        log_probs = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(dim=-1)
        # host sync: one sum and one flag
        return float(log_probs.double().sum()), bool((choices == wanted).all())

    def _options(self, requests: Sequence[Mapping[str, Any]]) -> list[GenerationOptions]:
        """Return the options of every request; say in one line what greedy requests give in vain."""
        # the harness has given torch the seed of its --seed
        end, seed = self.tokenizer.eos_token, torch.initial_seed()
        options = [generation_options(kwargs, end=end, seed=seed) for kwargs in requests]
        if unused := {name for kwargs in requests for name in unused_options(kwargs)}:
            logger.info("caddtree: without do_sample decoding is greedy; not used: %s", ", ".join(sorted(unused)))
        return options

    def _prompts(self, texts: Sequence[str], options: Sequence[GenerationOptions]) -> list[list[int]]:
        """Return the prompts' token ids, cut from the left where the answer would have no room."""
        prompts, rooms = [], []
        for text, option in zip(texts, options, strict=True):
            assert option.max_new_tokens is not None
            rooms.append(self.max_length - option.max_new_tokens)
            if rooms[-1] < 1:
                raise InputError(
                    f"max_gen_toks {option.max_new_tokens} leaves no room for a prompt in a context of "
                    f"{self.max_length}; ask for fewer"
                )
            # an empty text stands behind the prefix token here, as it does in a likelihood
            prompts.append(self.tok_encode(text) or [self.prefix_token_id])
        self._log_cut([len(prompt) for prompt in prompts], rooms)
        return [prompt[-room:] for prompt, room in zip(prompts, rooms, strict=True)]

    def _log_cut(self, lengths: Sequence[int], limits: Sequence[int]) -> None:
        """Say in one line how many texts do not fit."""
        num_cut = sum(length > limit for length, limit in zip(lengths, limits, strict=True))
        if num_cut:
            logger.warning(
                "caddtree: %d of %d prompts are too long for the context of %d tokens; their beginnings are cut off",
                num_cut,
                len(lengths),
                self.max_length,
            )

    def _has_no_bar(self, is_disabled: bool) -> bool:
        return is_disabled or self.decoder.group.rank != 0

    def _log_what_gives_way(self, device: str | None, trust_remote_code: bool) -> None:
        if device == HARNESS_DEVICE != str(self._device):
            logger.info("caddtree: the recipe's target.device decides, not the harness's default %s", device)
        if trust_remote_code:
            logger.info("caddtree: trust_remote_code holds for data sets; the code of a model folder is never run")
        if self.recipe.generation != GenerationOptions():
            logger.info("caddtree: tasks decide how to generate; the recipe's generation section is not used")


def _own_seeds(prompts: Sequence[list[int]], options: Sequence[GenerationOptions]) -> list[GenerationOptions]:
    """Return the options with a seed for every request, of the seed asked for, its prompt and its repeats so far.

    One seed for all would draw the same noise everywhere: repeats of a request would all be the same text. A number in
    order would change with ``--limit`` or a cache.
    """
    counts: Counter[tuple[int, ...]] = Counter()
    seeded = []
    for prompt, option in zip(prompts, options, strict=True):
        repeat = counts[tuple(prompt)]
        counts[tuple(prompt)] += 1
        digest = hashlib.sha256(repr((option.seed, repeat, prompt)).encode()).digest()
        seeded.append(attrs.evolve(option, seed=int.from_bytes(digest[:8], "big")))
    return seeded
