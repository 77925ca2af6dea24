"""Says in a report how much of the time went into rounds whose draft was of no use."""

from collections import defaultdict

import attrs
from attrs.validators import ge, instance_of, le
from caddtree.experiments.store import RunData
from caddtree.experiments.summary import Summary
from caddtree.plugins.hooks import KindRegistry, hookimpl
from caddtree.reports.section import ReportPart
from caddtree.reports.tables import Table


@attrs.frozen
class Wasted:
    """Show, by variant and data set, the rounds that drafted and gained the bonus token alone."""

    least: float = attrs.field(default=0.0, validator=[instance_of((int, float)), ge(0), le(1)])
    """Rows with a smaller share of such rounds are left out."""

    def render(self, run: RunData, summary: Summary) -> ReportPart | None:
        """Return a table of rounds and seconds; None where nothing was drafted."""
        rounds: dict[tuple[str, str], list[tuple[bool, float]]] = defaultdict(list)
        for result in run.results.values():
            columns = zip(
                result.rounds.num_draft_nodes, result.rounds.num_accepted, result.rounds.total_seconds, strict=True
            )
            rounds[result.cell.variant, result.cell.dataset] += [
                (num_accepted == 0, seconds) for num_nodes, num_accepted, seconds in columns if num_nodes
            ]
        rows = []
        for variant in run.plan.variants:
            for dataset in run.plan.datasets:
                drafted = rounds[variant, dataset]
                wasted = [seconds for is_wasted, seconds in drafted if is_wasted]
                if drafted and len(wasted) >= self.least * len(drafted):
                    share = sum(wasted) / sum(seconds for _, seconds in drafted)
                    rows.append((variant, dataset, len(drafted), len(wasted), f"{100 * share:.0f} %"))
        if not rows:
            return None
        header = ("variant", "data set", "rounds that drafted", "accepted none", "of their time")
        table = Table.of("Rounds that accepted no draft node", header, rows, num_text_columns=2)
        return ReportPart("Wasted drafts", "A round whose draft is of no use costs more than a plain one.", (table,))


@hookimpl
def register_report_sections(registry: KindRegistry) -> None:
    """Register the section on wasted drafts."""
    registry.add("wasted", Wasted)
