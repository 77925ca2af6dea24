"""The rule against loops keeps the contract of an observer, and ends a text at the token that closes a loop."""

import pytest
from caddtree.testing import ObserverContract
from demo import FOLDER, generated

from caddtree_example.loop import Loop


class TestLoop(ObserverContract):
    strategy = Loop
    invalid_options = [{"times": 1}, {"longest": 0}, {"shortest": 0}]


def first_stop(tokens, **options):
    """Return how many of the tokens are left."""
    rule = Loop(**options)
    return next((n for n in range(1, len(tokens) + 1) if rule.ends_text(tokens[:n])), None)


def test_the_text_ends_where_the_loop_closes():
    """With the last token of the last repeat; the passage itself may begin anywhere."""
    assert first_stop([9, 8, 1, 2, 1, 2, 1, 2, 1, 2, 1], times=4, shortest=8) == 10
    assert first_stop([5, 5, 5, 5, 5], times=4, shortest=4) == 4
    assert first_stop([1, 2, 3, 1, 2, 3], times=2, shortest=6) == 6


def test_what_is_no_loop_goes_on():
    """Too few repeats, a passage that is too long, repeats that are too short together."""
    assert first_stop([1, 2, 1, 2, 1, 2, 1], times=4, shortest=1) is None
    assert first_stop([1, 2, 3] * 9, times=4, longest=2, shortest=1) is None
    assert first_stop([5, 5, 5, 6], times=3, shortest=4) is None


@pytest.mark.parametrize("builder", ["chain", "ddtree"])
def test_a_text_ends_at_the_same_token_with_and_without_drafts(builder):
    """The drafts of the pair see the loop coming, and still none of it is shown."""
    request = {"generation": {"max_new_tokens": 200}}
    rule = {"observers": [{"name": "loop", "times": 3}], **request}
    prompt = "class Node:\n"
    whole = generated("demo-plain", prompt=prompt, length=200, **request)
    plain = generated("demo-plain", prompt=prompt, length=200, **rule)
    drafted = generated("demo", prompt=prompt, length=200, tree_builder={"name": builder}, **rule)

    assert first_stop(list(whole.token_ids), times=3) == len(plain.token_ids) < len(whole.token_ids)
    assert drafted.token_ids == plain.token_ids == whole.token_ids[: len(plain.token_ids)]
    assert (plain.finish_reason, plain.stopped_by) == ("stop", "Loop")
    assert len(drafted.rounds) < len(plain.rounds)


def test_the_recipe_ends_a_loop(tmp_path, monkeypatch):
    """As an author runs it."""
    monkeypatch.setenv("LOG", str(tmp_path / "rounds.jsonl"))
    recipe = FOLDER / "watched.yaml"

    assert generated(recipe, prompt="class Node:\n", length=200).stopped_by == "Loop"
