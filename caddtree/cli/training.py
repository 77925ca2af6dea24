"""``train target|drafter|card``: make the demo pair, or one like it, and its model card."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import attrs
import typer

from caddtree.cli.app import app, command

train_app = typer.Typer(help="Train a target, or a DFlash drafter for it.", no_args_is_help=True)
app.add_typer(train_app, name="train")

FolderOption = Annotated[Path, typer.Option("--folder", help="Where checkpoints and results go.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Optimiser steps; the shipped model's when left out.")]
SeedOption = Annotated[int, typer.Option("--seed", help="Of the data, the weights at first, and their order.")]


@command(train_app)
def target(folder: FolderOption, steps: StepsOption = None, seed: SeedOption = 0) -> None:
    """Train the small Qwen3 target; a second run goes on from the last checkpoint."""
    from caddtree.training.target import TargetTraining, train_target

    training = TargetTraining(folder=folder, seed=seed)
    training = training if steps is None else attrs.evolve(training, steps=steps)
    with _steps(training.steps, "training the target") as show:
        done = train_target(training, show)
    print(f"target written to {done}")


@command(train_app)
def drafter(
    target_: Annotated[Path, typer.Option("--target", help="Folder of the finished target.")],
    folder: FolderOption,
    steps: StepsOption = None,
    seed: SeedOption = 0,
) -> None:
    """Train a DFlash drafter on the target's own responses; a second run goes on from the last checkpoint."""
    from caddtree.training.drafter import DrafterTraining, train_drafter

    training = DrafterTraining(target=target_, folder=folder, seed=seed)
    training = training if steps is None else attrs.evolve(training, steps=steps)
    with _steps(training.steps, "training the drafter") as show:
        done = train_drafter(training, show)
    print(f"drafter written to {done}")


@command(train_app)
def card(pair: Annotated[Path, typer.Option("--pair", help="Folder with target, drafter and prompts.")]) -> None:
    """Measure a finished pair on held-out prompts and write its model card."""
    from caddtree.training.model_card import write_model_card

    print(f"model card written to {write_model_card(pair)}")


@contextmanager
def _steps(total: int, what: str) -> Iterator[Callable[[int, int, float], None]]:
    """Give a function that shows how far a training is; one that goes on from a checkpoint starts there."""
    from tqdm import tqdm

    # disable=None: silent where standard error is no terminal
    with tqdm(total=total, desc=what, disable=None) as bar:

        def show(step: int, _total: int, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
            bar.update(step - bar.n)

        yield show
