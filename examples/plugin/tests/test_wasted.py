"""The section keeps the contract of a report's section, and counts what the records of a run hold."""

import pytest
from caddtree.experiments.experiment_files import load_experiment
from caddtree.experiments.summary import summarise
from caddtree.experiments.sweep import run_sweep
from caddtree.reports import write_report
from caddtree.testing import ReportSectionContract

from caddtree_example.wasted import Wasted


class TestWasted(ReportSectionContract):
    strategy = Wasted
    options = {"least": 0.2}
    invalid_options = [{"least": -0.5}, {"least": 1.5}]


EXPERIMENT = """
base: demo
axes: {tree_builder: [chain]}
datasets: [code]
prompts: 2
fixed: {generation: {max_new_tokens: 24}}
report: [{name: wasted, least: 0.0}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder of a small run."""
    folder = tmp_path_factory.mktemp("wasted")
    (folder / "small.yaml").write_text(EXPERIMENT, encoding="utf-8")
    run_sweep(load_experiment(folder / "small.yaml"), folder / "run")
    return folder / "run"


def test_the_report_has_the_section(folder):
    """In Markdown and on the page, with the counts of the records."""
    from caddtree.experiments.store import RunFolder

    files = {path.name: path for path in write_report(folder, folder / "report")}
    data = RunFolder(folder).read()
    nodes, accepted = ([], [])
    for result in data.results.values():
        nodes += result.rounds.num_draft_nodes
        accepted += result.rounds.num_accepted
    drafted = [a for n, a in zip(nodes, accepted, strict=True) if n]
    row = f"| chain | code | {len(drafted)} | {drafted.count(0)} |"

    assert row in files["report.md"].read_text(encoding="utf-8")
    assert "Wasted drafts" in files["report.html"].read_text(encoding="utf-8")
    # plain decoding drafts nothing, and has no row
    (table,) = Wasted().render(data, summarise(data)).tables
    assert [str(line[0]) for line in table.entries] == ["chain"]
