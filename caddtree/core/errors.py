"""The exceptions of the package: one base class, one line each, with what was found and how to fix it."""

from __future__ import annotations


class CaddtreeError(Exception):
    """Base of every error that caddtree raises on purpose."""


class InputError(CaddtreeError, ValueError):
    """A prompt, a request option or a file given by the user cannot be used."""


class RecipeError(CaddtreeError, ValueError):
    """A recipe, or an override of one, is wrong; the message lists every error of the file."""


class PluginError(CaddtreeError):
    """A plugin cannot be loaded or breaks the rules of the registry."""


class CompatibilityError(CaddtreeError, ValueError):
    """Two parts of a pipeline cannot work together; both are named."""


class CheckpointError(CaddtreeError, ValueError):
    """A checkpoint is damaged, incomplete or of another kind."""


class TreeError(CaddtreeError, ValueError):
    """A draft tree breaks an invariant: order of nodes, depth, duplicate siblings."""


class CostModelError(CaddtreeError, ValueError):
    """A cost model or a profile holds numbers that cannot be seconds."""


class NumericalError(CaddtreeError, ArithmeticError):
    """The target produced NaN or infinite logits."""


class StageError(CaddtreeError, RuntimeError):
    """A strategy raised while decoding; names the component and the round."""


class ResourceError(CaddtreeError, RuntimeError):
    """The machine ran out of memory in a way that a smaller draft tree did not cure."""


class GroupError(CaddtreeError, RuntimeError):
    """Another process of those that hold the target together failed, died or went elsewhere; names rank and cause."""


def one_line(error: BaseException) -> str:
    """Return what an exception says, as one line; also that of an exception that cannot say it."""
    try:
        return " ".join(str(error).split())
    except Exception:
        return "(its message cannot be read)"


def blamed(error: Exception, culprit: str, otherwise: type[CaddtreeError]) -> CaddtreeError:
    """Return an error that names its culprit: of its own type if that is one of these, else ``otherwise``."""
    text = one_line(error)
    # a class of somebody else's may want other arguments
    if isinstance(error, CaddtreeError) and type(error).__module__ == __name__:
        return type(error)(f"{culprit}: {text}")
    return otherwise(f"{culprit}: {type(error).__name__}: {text}")
