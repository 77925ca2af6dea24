"""How blocks reach workers: one process on this machine, or actors of a Ray cluster."""

from __future__ import annotations
