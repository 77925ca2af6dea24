"""A process that has imported everything slow, and forks for every command.

Importing torch takes seconds, and the pages hold a hundred commands. So ``caddtree`` and ``python`` on the path of a
page are a few lines of shell that hand their arguments, folder, environment and open files to this process; it forks,
and the child runs the command as if it had been started by itself. The server imports no module of the conformance
kit, because pytest has to import that itself, and looks up no plugin, because every child has others.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

IMPORTED = (
    "torch", "transformers.models.qwen3.modeling_qwen3", "scipy.optimize", "scipy.stats", "caddtree.loading",
    "caddtree.cli.commands", "caddtree.experiments.compare", "caddtree.experiments.experiment_files",
    "caddtree.diagnosis.examination", "caddtree.profiling",
)  # fmt: skip
_MOST_FILES = 64
FOREIGN = ("PYTEST_", "PYTHONPATH", "TRITON_INTERPRET", "COLUMNS")
"""What the tests have in their environment and a reader has not."""


class Nursery:
    """The process, and a folder with the commands that ask it."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "nursery.sock"
        self.commands = folder / "bin"
        self.commands.mkdir()
        for name in ("caddtree", "python", "pip"):
            command = self.commands / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {__file__} ask {self._socket} {name} "$@"\n')
            command.chmod(0o755)
        self._log = folder / "log.txt"
        with self._log.open("w", encoding="utf-8") as log:
            command = [sys.executable, "-m", __name__, "serve", str(self._socket)]
            root = str(Path(__file__).parents[2])
            environment = {**self.environment(), "PYTHONPATH": root}
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        while not self._socket.exists():
            assert self._process.poll() is None, self._log.read_text(encoding="utf-8")
            time.sleep(0.02)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a reader who has installed caddtree."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        path = os.pathsep.join((str(self.commands), kept["PATH"]))
        return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", **more}

    def run(self, *command: str, folder: Path, environment: Mapping[str, str], timeout: float) -> tuple[int, str]:
        """Return the exit code of a command and what it prints, errors among it."""
        words = [str(self.commands / command[0]), *command[1:]]
        try:
            done = subprocess.run(
                words, cwd=folder, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, timeout=timeout,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
            return -1, (said.decode(errors="replace") if isinstance(said, bytes) else said) + f"\nover {timeout} s"
        return done.returncode, done.stdout

    def close(self) -> None:
        """End the process and what it forked."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()


def ask(address: str, words: Sequence[str]) -> int:
    """Let the nursery run a command with the files of this process; return its exit code."""
    # a process that starts workers gives them pipes of its own besides
    files = sorted(number for number in map(int, os.listdir("/proc/self/fd")) if _is_open(number))
    python = str(Path(address).parent / "bin" / "python")
    request = json.dumps(
        {
            "words": list(words),
            "folder": os.getcwd(),
            "environment": dict(os.environ),
            "files": files,
            "python": python,
        }
    ).encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.connect(address)
        socket.send_fds(asking, [len(request).to_bytes(8, "big")], files)
        asking.sendall(request)
        code = asking.recv(1)
    # a child that dies of a signal says nothing
    return code[0] if code else 139


def _is_open(number: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False


def serve(address: str) -> None:
    """Import, then fork for every request."""
    for module in IMPORTED:
        importlib.import_module(module)
    _measure_quickly()
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(f"{address}.new")
    listening.listen(64)
    # the address appears when it can be asked
    os.rename(f"{address}.new", address)
    while True:
        asking, _ = listening.accept()
        while _reaped():
            pass
        if os.fork() == 0:
            listening.close()
            code = _serve_one(asking)
            asking.sendall(bytes([code & 255]))
            os._exit(code)
        asking.close()


def _reaped() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _measure_quickly() -> None:
    """Profiles of the pages are measured in seconds: what they say is nothing that a test of a page could check."""
    from caddtree.profiling import measure, store

    measure._WARM_UP_SWEEPS = 1
    store.measure_profile = lambda decoder, key, *, max_count: measure.measure_profile(
        decoder, key, max_count=max_count, contexts=(64,), repeats=1
    )


def _serve_one(asking: socket.socket) -> int:
    length, files, _, _ = socket.recv_fds(asking, 8, _MOST_FILES)
    request = b""
    while len(request) < int.from_bytes(length, "big"):
        request += asking.recv(1 << 16)
    asked = json.loads(request)
    _place(files, asked["files"], asking)
    # workers that the command starts are forks, too
    sys.executable = asked["python"]
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    try:
        return _exit_code(asked["words"])
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()


def _place(files: list[int], numbers: list[int], asking: socket.socket) -> None:
    """Give the received files the numbers that they have in the process that asks."""
    above = max([*files, *numbers, asking.fileno()]) + 1
    # none of them, and not the connection, may be written over before it is moved
    moved = [fcntl.fcntl(file, fcntl.F_DUPFD, above) for file in files]
    connection = fcntl.fcntl(asking.fileno(), fcntl.F_DUPFD_CLOEXEC, above)
    for file in files:
        os.close(file)
    if asking.fileno() in numbers:
        asking.detach()
        asking.__init__(fileno=connection)
    else:
        os.close(connection)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number, inheritable=number < 3)
        os.close(file)


def _exit_code(words: list[str]) -> int:
    try:
        _run(words)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _run(words: list[str]) -> None:
    match words:
        case ["caddtree", *_]:
            from caddtree.cli import main

            sys.argv = words
            main()
        case ["python", "-m", "pip", *rest] | ["pip", *rest]:
            _pip(rest)
        case ["python", "-m", "tests.docs.run_page", *rest]:
            from tests.docs import run_page

            run_page.main(*rest)
        case ["python", "-m", module, *rest]:
            sys.path.insert(0, os.getcwd())
            sys.argv = [module, *rest]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        case ["python", "-P", "-c", code, *rest] | ["python", "-c", code, *rest]:
            sys.path[:0] = [] if words[1] == "-P" else [""]
            sys.argv = ["-c", *rest]
            exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
        case ["python", script, *rest] if not script.startswith("-"):
            sys.path.insert(0, os.path.dirname(os.path.abspath(script)))
            sys.argv = [script, *rest]
            runpy.run_path(script, run_name="__main__")
        case _:
            raise SystemExit(f"the nursery knows no way to run {words}")


def _pip(words: list[str]) -> None:
    """Install the projects that are folders here, as pip would but without network and build tools.

    With ``--editable`` links stand in the place of copies. Dependencies are there: they are those of caddtree.
    """
    from tests.plugins.projects import install

    site = Path(os.environ["PYTHONPATH"].split(os.pathsep)[0])
    projects = [Path(word.split("[")[0]) for word in words[1:] if not word.startswith("-")]
    if words[:1] != ["install"] or not projects or not all((path / "pyproject.toml").is_file() for path in projects):
        raise SystemExit(f"pip {' '.join(words)} needs the network; mark the block as not run, with that reason")
    for project in projects:
        with tempfile.TemporaryDirectory() as fresh:
            name = install(project, Path(fresh))
            for made in Path(fresh).iterdir():
                _replace(site / made.name, made, project if {"--editable", "-e"} & set(words) else None)
        print(f"installed {name}")


def _replace(place: Path, made: Path, project: Path | None) -> None:
    """Put what was installed in its place, as a link into ``project`` where it is given and has it."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    source = None if project is None else next(iter(sorted(project.rglob(made.name))), None)
    if source is None:
        shutil.move(made, place)
    else:
        place.symlink_to(source.resolve())


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2], sys.argv[3:]))
    serve(sys.argv[2])
