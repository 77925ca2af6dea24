"""Random draft trees."""

from __future__ import annotations

import random

from caddtree.core.draft_tree import DraftTree


def random_tree(num_nodes: int, seed: int, *, vocabulary_size: int = 61) -> DraftTree:
    """Return a tree in which every node hangs under any earlier one, and siblings carry distinct tokens."""
    generator = random.Random(seed)
    parents = [-1, *(generator.randrange(node) for node in range(1, num_nodes))]
    tokens, num_children = [generator.randrange(vocabulary_size)], [0] * num_nodes
    for node in range(1, num_nodes):
        parent = parents[node]
        num_children[parent] += 1
        # steps of 7 repeat after the vocabulary, which is no multiple of 7 and larger than a family
        tokens.append((tokens[parent] + 7 * num_children[parent]) % vocabulary_size)
    return DraftTree.from_parents(tokens, parents)
