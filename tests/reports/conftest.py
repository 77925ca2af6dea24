"""One synthetic run and its report for all tests of this folder."""

from __future__ import annotations

import pytest

from caddtree.experiments.summary import summarise
from caddtree.reports import write_report
from caddtree.reports.figures import gallery
from tests.reports.synthetic_run import synthetic_run, write_run


@pytest.fixture(scope="session")
def data():
    """Five variants, two settings, three data sets, eight prompts."""
    return synthetic_run()


@pytest.fixture(scope="session")
def summary(data):
    return summarise(data)


@pytest.fixture(scope="session")
def run_folder(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write_run(data, folder)
    return folder


@pytest.fixture(scope="session")
def drawn_report(run_folder, tmp_path_factory):
    """The folder of a whole report, and the pictures in it, which take seconds to draw."""
    output, drawn = tmp_path_factory.mktemp("report"), []
    draw = gallery.draw_pictures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "draw_pictures", lambda *given: drawn.extend(draw(*given)) or tuple(drawn))
        write_report(run_folder, output)
    return output, tuple(drawn)


@pytest.fixture(scope="session")
def report(drawn_report):
    return drawn_report[0]


@pytest.fixture(scope="session")
def pictures(drawn_report):
    return drawn_report[1]
