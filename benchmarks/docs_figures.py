"""Measures what two pages of the documentation show, and draws their pictures.

python benchmarks/docs_figures.py measure    # the demo pair on this machine -> benchmarks/results/docs_figures.json
python benchmarks/docs_figures.py draw       # that file -> docs/figures/*.svg
python benchmarks/docs_figures.py facts      # the phrases that the pages quote from it
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from pages.drawing import draw
from pages.measuring import measure
from pages.phrases import facts

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "docs_figures.json"
FIGURES = ROOT / "docs" / "figures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("measure", "draw", "facts"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    options = parser.parse_args()
    if options.action == "measure":
        options.result.write_text(json.dumps(measure(), indent=1) + "\n", encoding="utf-8")
        return
    data = json.loads(options.result.read_text(encoding="utf-8"))
    if options.action == "facts":
        for page, phrases in facts(data).items():
            print(page, *phrases, sep="\n    ")
        return
    for name, svg in draw(data).items():
        (options.figures / name).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
