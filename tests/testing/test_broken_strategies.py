"""The kit catches strategies that are broken on purpose, each by the checks that name its fault and by no others.

All run in one pytest of their own, as a third party's would: without a conftest and without this project's settings.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from caddtree.testing import (
    CostModelContract,
    DrafterContract,
    ObserverContract,
    PreprocessorContract,
    ReportSectionContract,
    TreeBuilderContract,
    VerifierContract,
)
from caddtree.testing.strategy_contract import Contract
from tests.testing.broken import (
    cost_models,
    drafters,
    observers,
    preprocessors,
    report_sections,
    tree_builders,
    verifiers,
)

MODULES = [drafters, tree_builders, cost_models, verifiers, observers, preprocessors, report_sections]
CONTRACTS = [
    DrafterContract,
    TreeBuilderContract,
    CostModelContract,
    VerifierContract,
    ObserverContract,
    PreprocessorContract,
    ReportSectionContract,
]
BROKEN = [cls for module in MODULES for name, cls in vars(module).items() if name.startswith("Test")]


def outcomes(folder: Path, *options: str) -> dict[str, dict[str, list[str]]]:
    """Return class -> check -> messages of its failures, an empty list where it passed."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.xml"
    root = Path(__file__).parents[2]
    command = [
        sys.executable, "-m", "pytest", "--noconftest", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider",
        "-p", "no:logging", f"--rootdir={root}", "--quiet", "--tb=line", f"--junitxml={report}", *options,
        *(str(module.__file__) for module in MODULES),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in ElementTree.parse(report).iter("testcase"):
        messages = found[case.attrib["classname"].split("tests.testing.broken.")[-1]][case.attrib["name"].split("[")[0]]
        messages += [node.attrib["message"] for node in case if node.tag in ("failure", "error")]
    return found


@pytest.fixture(scope="module")
def catches(tmp_path_factory):
    """Outcomes of the checks that should fail, and of all checks of the strategies that are sound."""
    return outcomes(tmp_path_factory.mktemp("catches"), "-p", "tests.testing.broken.expected_to_fail")


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Outcomes of all checks of all strategies."""
    return outcomes(tmp_path_factory.mktemp("everything"))


def label(cls):
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


def assert_caught(cls, found):
    """Every failure says what is expected of its check; whatever else was run passed."""
    failed = {check: messages for check, messages in found.items() if messages}

    for check, messages in failed.items():
        expected = cls.caught_by.get(check, cls.caught_by.get("*"))
        assert expected is not None, f"{check} fails too: {messages[0]}"
        for message in messages:
            assert re.match(r'(failed on setup with ")?caddtree.testing.claims.BrokenContractError: ', message)
        assert any(re.search(expected, message) for message in messages), f"{check}: {messages[0]}"
    if "*" in cls.caught_by:
        assert failed
    else:
        assert set(failed) == set(cls.caught_by)


@pytest.mark.parametrize("cls", BROKEN, ids=label)
def test_a_broken_strategy_is_caught_by_the_checks_that_name_its_fault(catches, cls):
    """A sound one, kept beside them, passes."""
    found = catches[label(cls)]

    assert len(found) >= (len(cls.caught_by) if cls.caught_by.keys() - {"*"} else 15)
    assert_caught(cls, found)


@pytest.mark.slow
@pytest.mark.parametrize("cls", BROKEN, ids=label)
def test_a_broken_strategy_passes_every_other_check(everything, cls):
    """A check that fails for a fault that is not its own would lead its author astray."""
    found = everything[label(cls)]

    assert len(found) >= 15
    assert_caught(cls, found)


@pytest.mark.parametrize("contract", [Contract, *CONTRACTS])
def test_every_check_of_the_kit_catches_something(contract):
    """No check is there that no broken strategy of its kind fails; those of all kinds, one of any kind."""
    checks = {name for name in vars(contract) if name.startswith("test_")}
    catches = {name for cls in BROKEN if issubclass(cls, contract) for name in cls.caught_by}

    assert checks - catches == set()
