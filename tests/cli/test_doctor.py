"""``doctor``: findings in words and as JSON, and exit codes that a script can trust."""

from __future__ import annotations

import json

import pytest

from caddtree.cli import doctor  # noqa: F401  (registered by import)
from tests.cli.runner import caddtree, lines
from tests.diagnosis.planted import DEMO, copy_drafter, dflash, shuffled_features

NAMES = [
    "acceptance",
    "vocabulary",
    "layer ids",
    "RoPE",
    "mask token",
    "head and embedding",
    "dtype",
    "kernels",
    "profile",
]


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three of the demo prompts, one of each domain."""
    path = tmp_path_factory.mktemp("prompts") / "few.jsonl"
    path.write_text("".join((DEMO / "prompts" / "demo.jsonl").read_text().splitlines(keepends=True)[::3]))
    return path


def test_a_sound_pair_ends_with_exit_code_0(few):
    """Every check by name, its status, what was found; the last line says it all."""
    found = caddtree("doctor", "demo-ddtree", "--prompts", few)
    shown = lines(found.stdout)

    assert found.exit_code == 0, found.stderr
    assert shown[0] == "demo-ddtree, 3 prompts"
    assert [line[:20].strip() for line in shown[1:-1] if not line.startswith(" ")] == NAMES
    assert "layer ids           fine" in shown
    assert shown[-1] == "nothing is wrong"
    assert "->" not in found.stdout
    assert max(map(len, shown)) <= 100


def test_a_planted_fault_is_named_in_words_and_as_json(few, tmp_path):
    """Layer ids off by one: exit code 1, the check, both lists, what to set and where."""
    folder = copy_drafter(tmp_path / "drafter", dflash(target_layer_ids=[1, 4, 6]))
    options = ["doctor", "demo-ddtree", "--prompts", few, "--set", f"drafter.model={folder}"]
    shown, listed = caddtree(*options), caddtree(*options, "--json")
    told = json.loads(listed.stdout)
    checks = {check["name"]: check for check in told["checks"]}

    assert shown.exit_code == listed.exit_code == 1
    assert "layer ids           wrong" in lines(shown.stdout)
    assert lines(shown.stdout)[-1] == "wrong: layer ids"
    assert "    -> Set dflash_config.target_layer_ids to [2, 5, 7] in" in shown.stdout
    assert (told["recipe"], told["num_prompts"], told["sound"]) == ("demo-ddtree", 3, False)
    assert list(checks) == NAMES
    assert [name for name, check in checks.items() if check["status"] == "wrong"] == ["layer ids"]
    assert checks["layer ids"]["figures"]["one higher"]["layers"] == [2, 5, 7]


def test_a_foreign_drafter_is_wrong_as_a_whole(few, tmp_path):
    """Shuffled features, recorded for another target: both are said."""
    folder = copy_drafter(tmp_path / "drafter", lambda raw: raw.update(target_fingerprint="0" * 64), shuffled_features)
    found = caddtree("doctor", "demo-chain", "--prompts", few, "--set", f"drafter.model={folder}")

    assert found.exit_code == 1
    assert lines(found.stdout)[-1].startswith("wrong: ")
    assert {"vocabulary", "layer ids"} <= set(lines(found.stdout)[-1].removeprefix("wrong: ").split(";")[0].split(", "))


def test_a_drafter_that_cannot_be_loaded_is_a_finding(tmp_path):
    """The loader's line, and exit code 1: it is the pair that is wrong."""
    folder = copy_drafter(tmp_path / "drafter", dflash(mask_token_id=4096))
    found = caddtree("doctor", "demo", "--set", f"drafter.model={folder}")

    assert found.exit_code == 1
    assert "mask_token_id is 4096, but the target has 4096" in " ".join(found.stdout.split())
    assert lines(found.stdout)[-1] == "wrong: loading"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.yaml"], "nothing.yaml: no such file"),
        (["demo", "--set", "drafter.width=0"], "drafter.width"),
        (["demo", "--prompts", "nothing.jsonl"], "nothing.jsonl: cannot read the prompts"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, message):
    """A recipe, an override, a file of prompts."""
    found = caddtree("doctor", *arguments)

    assert found.exit_code == 2
    assert message in lines(found.stderr)[-1]
    assert found.stdout == ""


def test_the_limit_takes_the_first_prompts(few):
    """Of a long file."""
    told = json.loads(caddtree("doctor", "demo-plain", "--prompts", few, "--limit", "2", "--json").stdout)

    assert told["num_prompts"] == 2
