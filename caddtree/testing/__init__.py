"""The conformance kit: what every strategy promises, as test classes that a plugin author subclasses.

A whole test file is::

    from caddtree.testing import TreeBuilderContract
    from caddtree_random_tree import RandomTree

    class TestRandomTree(TreeBuilderContract):
        strategy = RandomTree
        options = {"node_budget": 8}
        invalid_options = [{"node_budget": 0}]

It needs pytest and nothing else: no network, no weights, no fixtures of the author's. What a class may say about its
strategy, and how a strategy that needs files is made, stands in :class:`~caddtree.testing.strategy_contract.Contract`.
The built-in strategies pass through the same classes.
"""

from caddtree.testing.claims import BrokenContractError
from caddtree.testing.cost_model_contract import CostModelContract
from caddtree.testing.drafter_contract import DrafterContract
from caddtree.testing.inputs import plain_tokens, random_marginals, round_context, tiny_target
from caddtree.testing.observer_contract import ObserverContract
from caddtree.testing.preprocessor_contract import PreprocessorContract
from caddtree.testing.records import made_up_request, made_up_round
from caddtree.testing.report_section_contract import ReportSectionContract
from caddtree.testing.runs import made_up_run
from caddtree.testing.tree_builder_contract import TreeBuilderContract
from caddtree.testing.verifier_contract import VerifierContract

__all__ = [
    "BrokenContractError", "CostModelContract", "DrafterContract", "ObserverContract", "PreprocessorContract",
    "ReportSectionContract", "TreeBuilderContract", "VerifierContract", "made_up_request", "made_up_round",
    "made_up_run", "plain_tokens", "random_marginals", "round_context", "tiny_target",
]  # fmt: skip
