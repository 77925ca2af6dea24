"""Ends a text that goes round in circles: small models repeat themselves until the last token that they are allowed."""

from collections.abc import Sequence

import attrs
from attrs.validators import ge, instance_of
from caddtree.plugins.hooks import KindRegistry, hookimpl


@attrs.frozen
class Loop:
    """End the text where its last tokens say the same so many times in a row."""

    times: int = attrs.field(default=4, validator=[instance_of(int), ge(2)])
    """Times that a passage stands side by side before it is a loop."""
    longest: int = attrs.field(default=32, validator=[instance_of(int), ge(1)])
    """Tokens of a passage at most; longer ones may be repeated on purpose."""
    shortest: int = attrs.field(default=16, validator=[instance_of(int), ge(1)])
    """Tokens that the repeats have together at least, so that no indentation ends a text."""

    def ends_text(self, tokens: Sequence[int]) -> bool:
        """Tell whether the answer so far ends in a loop; that follows from its tokens alone."""
        last = len(tokens)
        for length in range(1, min(self.longest, last // self.times) + 1):
            passage = tokens[last - length :]
            repeats = (tokens[last - (k + 1) * length : last - k * length] for k in range(1, self.times))
            if length * self.times >= self.shortest and all(repeat == passage for repeat in repeats):
                return True
        return False


@hookimpl
def register_observers(registry: KindRegistry) -> None:
    """Register the rule against loops."""
    registry.add("loop", Loop)
