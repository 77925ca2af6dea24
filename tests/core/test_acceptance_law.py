"""Sampled text through draft trees has the target's own law, whatever the trees are. L-04, L-05, L-06."""

from __future__ import annotations

import itertools
import random

import attrs
import pytest
import scipy.stats
import torch

from caddtree.core.acceptance import MatchChoice, Walk
from caddtree.core.context import RoundContext
from caddtree.core.decoder import Decoder
from caddtree.core.draft_tree import DraftTree
from caddtree.core.marginals import Marginals
from caddtree.core.sampler import Sampler, gumbel_noise
from caddtree.tree_builders.chain import Chain
from caddtree.tree_builders.ddtree import DDTree
from caddtree.verifiers.sdpa import SdpaVerifier
from tests.core.test_sampler import CASES, exact
from tests.tiny_models import ScriptedDrafter, prompts, tiny_model

VOCABULARY = 6
NEXT_LOGITS = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(6)) * 2
"""A target that looks at the last token only: row ``t`` holds the logits after token ``t``."""
START = 0
MASTER_SEED = 11


def built(builder, logits, root, depth):
    """The tree that a builder makes of these draft logits."""
    marginals = Marginals.from_logits(logits.expand(depth, -1), VOCABULARY)
    return builder.build(marginals, RoundContext(root, 0, depth + 1, 100))


def root_alone(text, depth, index):
    return DraftTree.root_only(text[-1])


def likeliest_chain(text, depth, index):
    """The arg-max path of the target itself."""
    return built(Chain(), NEXT_LOGITS[text[-1]], text[-1], depth)


def all_tied(text, depth, index):
    """Every draft probability is equal."""
    return built(DDTree(node_budget=9), torch.zeros(VOCABULARY), text[-1], depth)


def unlikely_drafts(text, depth, index):
    """The drafter swears on what the target likes least, beyond its top-k and nucleus; the rest has probability 0."""
    logits = torch.full((VOCABULARY,), -torch.inf)
    logits[NEXT_LOGITS[text[-1]].argsort()[:2]] = torch.tensor([9.0, 1.0])
    return built(DDTree(node_budget=6), logits, text[-1], depth)


def every_token(text, depth, index):
    """All children of the root: each first token is a draft."""
    return DraftTree.from_parents([text[-1], *range(VOCABULARY)], [-1] + [0] * VOCABULARY)


def random_shape(text, depth, index):
    """Another tree every time, of a shape that depends on the text so far."""
    rng = random.Random(hash((tuple(text), index)))
    logits = torch.tensor([rng.gauss(0, 3) for _ in range(VOCABULARY)])
    return built(DDTree(node_budget=rng.randint(1, 12)), logits, text[-1], depth)


DRAFTERS = [root_alone, likeliest_chain, all_tied, unlikely_drafts, every_token, random_shape]


def plain_texts(sampler, count, length):
    """Plain sampling, all texts at once: text ``i`` begins at position ``length * i``; ``(count, length)``."""
    noise = gumbel_noise(sampler.seed, range(count * length), VOCABULARY).view(count, length, VOCABULARY)
    scores = torch.stack([sampler.scores(row) for row in NEXT_LOGITS])
    tokens = [torch.full((count,), START)]
    for row in noise.unbind(1):
        tokens.append((scores[tokens[-1]] + row).argmax(-1))
    return torch.stack(tokens[1:], dim=1)


def text_through_trees(rule, drafter, index, length):
    """The same text in rounds: draft a tree, walk it, go on from the bonus token."""
    text = [START]
    while len(text) <= length:
        remaining = length + 1 - len(text)
        tree = drafter(text, remaining, index) if remaining > 1 else DraftTree.root_only(text[-1])
        text += rule.walk(tree, NEXT_LOGITS[tree.tokens], length * index + len(text) - 1).tokens
    return text[1 : length + 1]


def assert_law(counts, law):
    """Chi-squared p > 1e-4, total variation at most 0.01, nothing outside the support."""
    support = law > 0
    total = counts.sum()
    assert counts[~support].sum() == 0, "outside the support"
    assert scipy.stats.chisquare(counts[support], law[support] * total).pvalue > 1e-4, "another law by chi-squared"
    assert 0.5 * (counts / total - law).abs().sum() <= 0.01, "another law by total variation"


def first_token_counts(rule, count):
    """One round per draw, the drafters in turn; each draw at positions of its own."""
    counts = torch.zeros(VOCABULARY, dtype=torch.float64)
    trees = [drafter([START], 2, index) for drafter in DRAFTERS for index in range(4)]
    logits = [NEXT_LOGITS[tree.tokens] for tree in trees]
    for index in range(count):
        which = index % len(trees)
        counts[rule.walk(trees[which], logits[which], 3 * index).tokens[0]] += 1
    return counts


@pytest.mark.parametrize("options", CASES)
def test_l04_the_first_token_of_a_round_has_the_targets_law(options):
    """L-04: 100 000 walks over all cases, through chains, ties, impossible drafts and full trees."""
    counts = first_token_counts(MatchChoice(Sampler(seed=MASTER_SEED, **options)), 100_000 // len(CASES))

    assert_law(counts, exact(NEXT_LOGITS[START], options))


@attrs.define
class ArgmaxMatch:
    """Faulty: accepts the likeliest token where it was drafted, and samples only where it was not."""

    sampler: Sampler

    def walk(self, tree, logits, context_length):
        best = int(logits[0].argmax())
        if best in tree.tokens[1:].tolist():
            return Walk((0,), (best,))
        return Walk((0,), (self.sampler.choose(logits[0], context_length),))


@attrs.define
class TruncatedRejection:
    """Faulty: accepts the best draft with ``min(1, p / q)`` although it was not sampled from q."""

    sampler: Sampler
    rng: random.Random = attrs.field(factory=lambda: random.Random(1))

    def walk(self, tree, logits, context_length):
        scores = self.sampler.scores(logits[0])
        if tree.num_drafts:
            draft, target = int(tree.tokens[1]), scores.softmax(-1)
            likelihood = float(tree.log_weights[1].exp())
            if self.rng.random() < float(target[draft]) / likelihood:
                return Walk((0,), (draft,))
            target[draft] = max(0.0, float(target[draft]) - likelihood)
            scores = target.log()
        noise = gumbel_noise(self.sampler.seed, [context_length], VOCABULARY)[0]
        return Walk((0,), (int((scores + noise).argmax()),))


@pytest.mark.parametrize("rule", [ArgmaxMatch, TruncatedRejection])
@pytest.mark.parametrize("options", CASES)
def test_l06_faulty_acceptance_rules_are_killed_by_the_law(rule, options):
    """L-06: two rules from the field whose bias the check of L-04 sees, by chi-squared, with a quarter of its draws."""
    counts = first_token_counts(rule(Sampler(seed=MASTER_SEED, **options)), 5_000)

    with pytest.raises(AssertionError, match="chi-squared"):
        assert_law(counts, exact(NEXT_LOGITS[START], options))


@pytest.mark.parametrize("options", CASES)
def test_l05_three_tokens_have_the_targets_joint_law(options):
    """L-05: plain sampling against all 216 outcomes, enumerated; chi-squared and total variation."""
    count = 400_000
    steps = torch.stack([exact(row, options) for row in NEXT_LOGITS])
    law = torch.zeros((VOCABULARY,) * 3, dtype=torch.float64)
    for a, b, c in itertools.product(range(VOCABULARY), repeat=3):
        law[a, b, c] = steps[START, a] * steps[a, b] * steps[b, c]
    texts = plain_texts(Sampler(seed=MASTER_SEED, **options), count, 3)
    outcomes = texts @ torch.tensor([VOCABULARY**2, VOCABULARY, 1])

    assert_law(torch.bincount(outcomes, minlength=VOCABULARY**3).double(), law.flatten())


@pytest.mark.parametrize("options", CASES)
@pytest.mark.parametrize("drafter", DRAFTERS)
def test_l05_text_through_trees_is_plain_text_token_by_token(drafter, options):
    """L-05: so its joint law is that of plain sampling, which the test above knows; over several rounds."""
    sampler = Sampler(seed=MASTER_SEED, **options)
    plain = plain_texts(sampler, 200, 3).tolist()

    assert [text_through_trees(MatchChoice(sampler), drafter, index, 3) for index in range(200)] == plain


class OddDrafter(ScriptedDrafter):
    """Ties everywhere, and one token of probability 0 at every depth."""

    def draft(self, state, request):
        logits = torch.zeros(min(self.depth, request.max_depth), self.vocabulary)
        logits[:, state[-1]] = -torch.inf
        return Marginals.from_logits(logits, 4, temperature=request.temperature)


@pytest.mark.parametrize("options", CASES)
def test_l05_a_decoder_with_trees_samples_what_a_plain_loop_samples(options):
    """L-05: a vocabulary of 17, full forwards and the sampler's noise as the oracle, many seeds."""
    model = tiny_model(seed=2, vocab_size=17, num_hidden_layers=2)
    gained = []
    for seed, prompt in enumerate(prompts(8, vocabulary=17, low=2)):
        text, sampler = list(prompt), Sampler(seed=seed, **options)
        with torch.no_grad():
            for _ in range(16):
                logits = model(torch.tensor([text]), use_cache=False).logits[0, -1]
                scores = sampler.scores(logits) + gumbel_noise(seed, [len(text) - 1], 17)[0]
                text.append(int(scores.argmax()))
        known = {tuple(prompt): text[len(prompt) :]}
        for drafter in (ScriptedDrafter(known, right=0.8), ScriptedDrafter(known, right=0.0), OddDrafter({})):
            decoder = Decoder(
                target=model, drafter=drafter, tree_builder=DDTree(node_budget=20), verifier=SdpaVerifier()
            )
            generation = decoder.generate(prompt, max_new_tokens=16, seed=seed, **options)

            assert list(generation.token_ids) == text[len(prompt) :]
            gained += [len(round_.tokens) for round_ in generation.rounds]
    assert {1, 2, 3} <= set(gained)
