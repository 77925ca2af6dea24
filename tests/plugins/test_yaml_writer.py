from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from caddtree.plugins.nodes import Origin, plain_value
from caddtree.plugins.yaml_reader import read_text
from caddtree.plugins.yaml_writer import write_yaml

_TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.from_regex(r"[-+]?[0-9._:xoebn]{1,8}", fullmatch=True),
    st.sampled_from(
        ["no", "off", "true", "null", "~", "", "1e-3", "016", "0o16", "1:30", "<<", "=", "- a", "a: b", "#"]
    ),
)
_SCALARS = st.one_of(
    _TEXT, st.none(), st.booleans(), st.integers(-(10**100), 10**100), st.floats(allow_nan=False, allow_infinity=True)
)


@given(st.dictionaries(_TEXT, st.one_of(_SCALARS, st.lists(_SCALARS, max_size=3)), max_size=4))
def test_what_is_written_reads_back_with_its_types(values: dict[str, Any]) -> None:
    """Strings that look like numbers of either YAML version stay strings."""
    document = read_text(write_yaml(values), Origin("written"))

    assert document.problems == ()
    assert document.root is not None
    found = plain_value(document.root)
    assert found == values
    assert repr(found) == repr(values)


def test_a_value_used_twice_is_written_out_twice() -> None:
    """No anchors: the reader refuses them."""
    shared = [1, 2]

    assert "&" not in write_yaml({"a": shared, "b": shared})
