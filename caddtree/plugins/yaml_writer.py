"""YAML that the strict reader reads back as the very same values."""

from __future__ import annotations

from typing import Any

import yaml

from caddtree.plugins.yaml_reader import plain_scalar

_LINE_BREAKS = frozenset("\n\r\x85\u2028\u2029")


class _Writer(yaml.SafeDumper):
    """Writes values out where they are used, and quotes every string that would read as something else."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _string(writer: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML knows the words and numbers of YAML 1.1 only, and folds the rarer line breaks in single quotes
    try:
        is_string = plain_scalar(text) == text and not _LINE_BREAKS & set(text)
    except ValueError:
        is_string = False
    return writer.represent_scalar("tag:yaml.org,2002:str", text, style=None if is_string else '"')


_Writer.add_representer(str, _string)


def write_yaml(sections: dict[str, Any]) -> str:
    """Return plain values as YAML, in their order, one key per line."""
    written: str = yaml.dump(
        sections, Dumper=_Writer, sort_keys=False, allow_unicode=True, default_flow_style=False, width=10_000
    )
    return written
