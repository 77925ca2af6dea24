from __future__ import annotations

from tests.kernels.interpreter import quicken

quicken()
