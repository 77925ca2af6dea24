"""caddtree as a model of EleutherAI's lm-evaluation-harness: ``lm_eval --model caddtree --model_args recipe=NAME``.

Releases of the harness after 0.4.13 find the model by its entry point in the group ``lm_eval.models``. Up to 0.4.13 the
harness knows only models in its own source tree, and :func:`register` has to be called: by
``python -m caddtree.interop.lm_eval``, by your own script, or by :func:`register_in_harness`.
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module

logger = logging.getLogger(__name__)

_NAME = "caddtree"
_MODEL = "caddtree.interop.lm_eval.model:CaddtreeLM"


def register() -> None:
    """Make ``caddtree`` a model name of the harness in this process; the class is imported when it is asked for."""
    # its own models first: the harness registers them only while it knows no model at all
    import_module("lm_eval.models")
    from lm_eval.api.registry import model_registry

    if _NAME not in model_registry:
        model_registry.register(_NAME, target=_MODEL)


def register_in_harness() -> None:
    """Register if this process runs the harness.

    PyTorch calls it at the end of ``import torch``, and the harness seeds torch before it looks a model up.
    """
    if "lm_eval" not in sys.modules:
        return
    try:
        register()
    except Exception as error:
        # it would end `import torch`, in a program that may not want this model at all
        logger.warning("caddtree is not registered with lm_eval: %s: %s", type(error).__name__, error)
