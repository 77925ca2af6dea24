"""``python -m caddtree.interop.lm_eval``: the harness's own command line, which knows ``--model caddtree``."""

from __future__ import annotations

from caddtree.interop.lm_eval import register


def main() -> None:
    """Register the model and hand over to the harness, arguments untouched."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error}; the harness is an extra: pip install 'caddtree[lm-eval]'") from error
    register()
    cli_evaluate()


if __name__ == "__main__":
    main()
