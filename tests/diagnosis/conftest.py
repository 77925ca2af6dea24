from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from caddtree.diagnosis.evidence import Evidence, gather
from caddtree.loading import load_model
from caddtree.plugins.recipe import load_recipe
from tests.diagnosis.planted import DEMO, PROMPTS, decoder_of


@pytest.fixture(scope="session")
def held() -> Any:
    """The demo target and its tokenizer."""
    return load_model(load_recipe("demo").target)


@pytest.fixture(scope="session")
def healthy(held: Any) -> Iterator[Evidence]:
    """The demo pair as it is shipped, DDTree with 32 draft nodes."""
    with decoder_of(held, DEMO / "drafter") as decoder:
        yield gather(decoder, PROMPTS)
