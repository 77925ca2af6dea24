"""The recipes of the package run on the demo target, and say what it says by itself."""

import pytest
from demo import FOLDER, generated


@pytest.mark.parametrize("name", ["example.yaml", "priced.yaml"])
def test_the_text_is_the_targets_own(name):
    """In fewer rounds than tokens."""
    plain, found = generated("demo-plain"), generated(FOLDER / name)

    assert found.token_ids == plain.token_ids
    assert len(found.rounds) < len(plain.rounds)


def test_the_log_names_every_round_whose_draft_was_of_no_use(caplog):
    """Position and counts, in the order of the rounds; other rounds are not named."""
    caplog.set_level("INFO", "caddtree.example")
    rounds = generated(FOLDER / "example.yaml").rounds

    assert [record.getMessage() for record in caplog.records if record.name == "caddtree.example"] == [
        f"position {round_.context_length}: 0 of {round_.num_draft_nodes} draft nodes accepted"
        for round_ in rounds
        if round_.num_draft_nodes and not round_.num_accepted
    ]
    assert any(round_.num_accepted for round_ in rounds)
