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


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Class -> check -> messages of its failures, an empty list where it passed."""
    folder = tmp_path_factory.mktemp("kit")
    (folder / "pytest.ini").write_text("[pytest]\n")
    report = folder / "report.xml"
    root = Path(__file__).parents[2]
    command = [
        sys.executable, "-m", "pytest", "--noconftest", "-c", str(folder / "pytest.ini"), "-p", "no:cacheprovider",
        "-p", "no:logging", f"--rootdir={root}", "--quiet", "--tb=line", f"--junitxml={report}",
        *(str(module.__file__) for module in MODULES),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for case in ElementTree.parse(report).iter("testcase"):
        messages = found[case.attrib["classname"].split("tests.testing.broken.")[-1]][case.attrib["name"].split("[")[0]]
        messages += [node.attrib["message"] for node in case if node.tag in ("failure", "error")]
    return found


def label(cls):
    return f"{cls.__module__.rpartition('.')[2]}.{cls.__name__}"


@pytest.mark.parametrize("cls", BROKEN, ids=label)
def test_a_broken_strategy_is_caught_by_the_checks_that_name_its_fault(outcomes, cls):
    """Every failure says what is expected of its check; the other checks pass."""
    found = outcomes[label(cls)]
    failed = {check: messages for check, messages in found.items() if messages}

    assert len(found) >= 15
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


@pytest.mark.parametrize("contract", [Contract, *CONTRACTS])
def test_every_check_of_the_kit_catches_something(contract):
    """No check is there that no broken strategy of its kind fails; those of all kinds, one of any kind."""
    checks = {name for name in vars(contract) if name.startswith("test_")}
    catches = {name for cls in BROKEN if issubclass(cls, contract) for name in cls.caught_by}

    assert checks - catches == set()
