"""The log keeps the contract of an observer, and has a line for every round and one for the request, in their order."""

import json
from pathlib import Path

import pytest
from caddtree.testing import ObserverContract
from demo import generated

from caddtree_example.round_log import RoundLog


class TestRoundLog(ObserverContract):
    strategy = RoundLog
    options = {"path": "rounds.jsonl"}
    other_options = {"path": "other.jsonl"}

    @pytest.fixture
    def make_strategy(self, tmp_path):
        """Return a function that makes the log in a folder of the test's own."""
        return lambda path, **options: RoundLog(path=str(tmp_path / path), **options)

    def noted(self, observer):
        """Return the name of the file and its lines; the next log starts with an empty one."""
        path = Path(observer.path)
        lines = path.read_text(encoding="utf-8").splitlines()
        path.unlink()
        return path.name, lines


def logged(path, **options):
    """Return a generation and what was logged of it."""
    observers = [{"name": "round-log", "path": str(path), **options}]
    generation = generated("demo-chain", observers=observers)
    return generation, [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_round_and_the_request_have_a_line(tmp_path):
    """With the figures of the generation."""
    generation, lines = logged(tmp_path / "rounds.jsonl")
    *rounds, request = lines

    assert [(line["event"], line["draft_nodes"], line["tokens"]) for line in rounds] == [
        ("round", round_.num_draft_nodes, len(round_.tokens)) for round_ in generation.rounds
    ]
    assert (request["event"], request["tokens"]) == ("request", len(generation.token_ids))
    assert request["finish_reason"] == generation.finish_reason


def test_rounds_can_be_left_out(tmp_path):
    """The request has its line all the same, and a second one is appended."""
    path = tmp_path / "requests.jsonl"
    logged(path, rounds=False)
    _, lines = logged(path, rounds=False)

    assert [line["event"] for line in lines] == ["request", "request"]
