"""``python -m caddtree``: the command line, as ``torchrun -m caddtree`` starts it too."""

from __future__ import annotations

from caddtree.cli import main

if __name__ == "__main__":
    main()
