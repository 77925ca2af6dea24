"""What all commands share: help, version, errors as one line, exit codes, tracebacks on request, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import typer

import caddtree as package
from caddtree.cli.app import app
from caddtree.core import target
from caddtree.core.pipeline import Session
from caddtree.tree_builders.ddtree import DDTree
from tests.cli.runner import caddtree, lines

COMMAND = [sys.executable, "-c", "from caddtree.cli import main; main()"]


def all_commands():
    """Every command and group by its words, found by recursion."""

    def below(command, words):
        found = {words: command}
        for name, inner in getattr(command, "commands", {}).items():
            found |= below(inner, (*words, name))
        return found

    return below(typer.main.get_command(app), ())


@pytest.mark.parametrize("words", all_commands(), ids=lambda words: " ".join(words) or "caddtree")
def test_every_command_explains_itself(words):
    """``--help`` exits 0, says what the command does and names all its options."""
    found = caddtree(*words, "--help", env={"COLUMNS": "200"})
    command = all_commands()[words]

    assert found.exit_code == 0
    assert found.stderr == ""
    assert command.help
    assert "".join(command.help.split()) in "".join(found.stdout.split())
    for parameter in command.params:
        assert all(word in found.stdout for word in parameter.opts if word.startswith("-"))


def test_the_commands_of_the_design_exist():
    """None is lost by an import that nobody makes."""
    assert {
        ("generate",), ("chat",), ("compare",), ("demo",), ("profile",), ("plugins", "list"), ("plugins", "new"),
        ("recipe", "check"), ("recipe", "show"), ("train", "target"), ("train", "drafter"),
    } <= set(all_commands())  # fmt: skip


def test_the_version_is_printed_alone():
    """And nothing is run besides."""
    found = caddtree("--version")

    assert (found.exit_code, found.stdout) == (0, f"caddtree {package.__version__}\n")


def test_no_command_shows_the_help():
    """A bare ``caddtree`` is a question."""
    found = caddtree()

    assert "generate" in found.output
    assert found.exit_code in (0, 2)


def fail(monkeypatch, owner, name, error):
    def raising(*arguments, **options):
        raise error

    monkeypatch.setattr(owner, name, raising)


@pytest.mark.parametrize(
    ("owner", "name", "error", "message"),
    [
        (DDTree, "build", ValueError("no luck"), "tree_builder DDTree failed in round 0: ValueError: no luck"),
        (Session, "step", RuntimeError("lost"), "RuntimeError: lost; caddtree --debug COMMAND shows where"),
        (target.Target, "forward_tree", MemoryError("full"), "verifier SdpaVerifier failed in round 0: MemoryError"),
    ],
)
def test_a_fault_of_the_run_is_one_line_and_exit_code_1(recipe, monkeypatch, owner, name, error, message):
    """What the user could not have written better: a strategy that raises, a bug, no memory."""
    fail(monkeypatch, owner, name, error)
    found = caddtree("generate", "the cat", "--recipe", recipe)

    assert found.exit_code == 1
    assert lines(found.stderr)[-1].startswith(f"error: {message}")
    assert "Traceback" not in found.stderr


def test_logits_that_are_not_finite_are_exit_code_1(recipe, monkeypatch):
    """The numbers of the target fail, not the user's words."""
    real = target.Target.forward_tree
    monkeypatch.setattr(target.Target, "forward_tree", lambda *arguments: real(*arguments) * float("nan"))
    found = caddtree("generate", "the cat", "--recipe", recipe)

    assert found.exit_code == 1
    assert lines(found.stderr)[-1].startswith("error: the target's logits are not finite: row 0")


def test_debug_raises_what_is_one_line_without_it(recipe, monkeypatch):
    """The error itself leaves the command, with its cause."""
    fail(monkeypatch, DDTree, "build", ValueError("no luck"))
    found = caddtree("--debug", "generate", "the cat", "--recipe", recipe)

    assert type(found.exception).__name__ == "StageError"
    assert str(found.exception.__cause__) == "no luck"
    assert "error:" not in found.stderr


@pytest.mark.parametrize("flags", [[], ["--debug"]], ids=["plain", "debug"])
def test_a_traceback_is_printed_on_request_only(flags):
    """In a process of its own, as a shell sees it."""
    found = subprocess.run(
        [*COMMAND, *flags, "recipe", "check", "missing.yaml"],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "CADDTREE_DEBUG"},
    )

    assert found.returncode == (1 if flags else 2)
    assert ("Traceback (most recent call last)" in found.stderr) == bool(flags)
    assert "missing.yaml" in lines(found.stderr)[-1]
    assert flags or len(lines(found.stderr)) == 1


def test_an_interrupt_ends_the_line_and_exits_130(recipe, monkeypatch):
    """What was printed stays."""
    real = Session.step

    def step(self, **options):
        if len(self.rounds) == 3:
            raise KeyboardInterrupt
        return real(self, **options)

    whole = caddtree("generate", "the cat", "--recipe", recipe).stdout
    monkeypatch.setattr(Session, "step", step)
    found = caddtree("generate", "the cat", "--recipe", recipe)

    assert found.exit_code == 130
    assert whole.startswith(found.stdout)
    assert found.stdout
    assert found.stderr.endswith("\ninterrupted\n")
    assert "tokens/s" not in found.stderr


def test_ctrl_c_keeps_what_was_printed_and_exits_130(recipe):
    """FT-26: SIGINT in the middle of a long answer; what stands on stdout is a prefix of the whole answer."""
    arguments = ["generate", "the cat", "--recipe", str(recipe), "--max-new-tokens", "480"]
    arguments += ["--set", "tree_builder.node_budget=1"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    first = os.read(process.stdout.fileno(), 1)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    whole = caddtree(*arguments).stdout

    assert process.returncode == 130
    assert b"Traceback" not in errors
    shown = (first + rest).decode("utf-8", errors="ignore").rstrip("\n")
    assert whole.startswith(shown[:-1])
    assert len(shown) < len(whole)
