"""Installs a plugin's project as an installer would, from its pyproject.toml, without network and build tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install(project: Path, site: Path) -> str:
    """Copy a project's modules to ``site`` and write its metadata there; return the name of the distribution."""
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    about, wheel = settings["project"], settings["tool"]["hatch"]["build"]["targets"]["wheel"]
    site.mkdir(parents=True, exist_ok=True)
    for name in wheel.get("packages", ()):
        shutil.copytree(project / name, site / Path(name).name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in wheel.get("only-include", ()):
        shutil.copy(project / name, site / name)
    info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    points = [f"{name} = {value}" for name, value in about["entry-points"]["caddtree"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[caddtree]", *points, ""]), encoding="utf-8")
    return about["name"]


def run(*arguments: object, folder: Path, sites: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder`` with the distributions of ``sites`` installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sites)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
