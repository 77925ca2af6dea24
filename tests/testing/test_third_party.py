"""The kit as a plugin author uses it: pytest alone, in a folder of the author's own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PLUGIN = '''
import attrs
import torch
from attrs.validators import ge, instance_of
from caddtree.core.draft_tree import DraftTree


@attrs.frozen
class RandomTree:
    """Draft at random: the floor every real builder must beat."""

    node_budget: int = attrs.field(validator=[instance_of(int), ge(1)])

    @property
    def needs_cost_model(self):
        return False

    def build(self, marginals, context):
        marginals = marginals.clip(context.max_depth)
        budget = min(self.node_budget, max(context.candidate_counts or (self.node_budget,)))
        generator = torch.Generator().manual_seed(context.context_length)
        tokens, parents, depths, weights = [context.root_token], [-1], [0], [0.0]
        for _ in range(4 * budget):
            node = int(torch.randint(len(tokens), (), generator=generator))
            if len(tokens) <= budget and depths[node] < marginals.depth:
                rank = int(torch.randint(marginals.width, (), generator=generator))
                log_prob = float(marginals.log_probs[depths[node], rank])
                token = int(marginals.tokens[depths[node], rank])
                if log_prob > -torch.inf and (node, token) not in zip(parents, tokens):
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depths[node] + 1)
                    weights.append(weights[node] + log_prob)
        return DraftTree.from_parents(tokens, parents, weights)
'''

AUTHORS_TEST = """
from caddtree.testing import TreeBuilderContract
from caddtree_random_tree import RandomTree


class TestRandomTree(TreeBuilderContract):
    strategy = RandomTree
    options = {"node_budget": 8}
    invalid_options = [{"node_budget": 0}]
"""

FORGOTTEN = """
from caddtree.testing import TreeBuilderContract


class TestNothing(TreeBuilderContract):
    pass
"""


@pytest.fixture
def run(tmp_path):
    """Run pytest in a folder with a plugin and one test file."""

    def run_tests(source):
        (tmp_path / "caddtree_random_tree.py").write_text(PLUGIN)
        (tmp_path / "test_plugin.py").write_text(source)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        command = [sys.executable, "-m", "pytest", "--quiet", "-p", "no:cacheprovider", "test_plugin.py"]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run_tests


def test_a_sound_plugin_passes_with_six_lines_of_test(run):
    """Nothing of this repository's own test set-up is needed."""
    done = run(AUTHORS_TEST)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "warning" not in done.stdout


def test_a_class_without_a_strategy_is_told_so(run):
    """By every check, in words that name the attribute."""
    done = run(FORGOTTEN)

    assert done.returncode == 1
    messages = [line for line in done.stdout.splitlines() if "BrokenContractError: " in line and line.startswith("E ")]
    assert all("TestNothing names no strategy. Set `strategy = YourClass` in its body." in line for line in messages)
    assert f"{len(messages)} errors" in done.stdout
