"""The data sets of experiments by name: shipped, from the hub, from a local copy, or a prompt file of one's own."""

from caddtree.experiments.datasets.catalogue import DatasetInfo, known_datasets
from caddtree.experiments.datasets.choice import DatasetChoice
from caddtree.experiments.datasets.loading import load_prompts

__all__ = ["DatasetChoice", "load_prompts", "known_datasets", "DatasetInfo"]
