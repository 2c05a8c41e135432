"""Commands that train: demo, train."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from barm.cli.common import NAMES, Device, Precision, Quiet, Recipe, Unlabelled, groups_in, out, quick_imports
from barm.engine.checkpoint.place import CONFIG, check_place
from barm.engine.distributed.watch import is_first
from barm.errors import UserError
from barm.reading import real

Deterministic = Annotated[bool, typer.Option("--deterministic", help="On a GPU, the same bits in every run; slower.")]


def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where the data, the runs and the image go.")] = Path(
        "runs/demo"
    ),
    seed: int = 1,
    quiet: Quiet = False,
) -> None:
    """Draw a data set, train BARM, fine-tuning and joint training on it, and compare.

    Example: barm demo
    """
    with quick_imports():
        from barm.demo import demo as run_demo

    if folder.exists() and any(folder.iterdir()) and not (folder / ".demo").exists():
        raise UserError(f"{folder} exists and no demo wrote it: choose another --out")
    run_demo(folder, seed=seed, quiet=quiet)


def train(
    recipe: Recipe = None,
    data: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<recipe> by default.")] = None,
    unlabelled: Unlabelled = None,
    task: Annotated[str | None, typer.Option(help="For recipes without a task: <first>-<increment>.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Classes of a step; once per step, instead of --task. {NAMES} @FILE.toml: groups of all steps."
        ),
    ] = None,
    setting: Annotated[Literal["overlap", "disjoint", "partitioned"] | None, typer.Option()] = None,
    step: Annotated[list[int] | None, typer.Option("--step", min=0, help="Only this step (may be repeated).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Take over another run's step 0; it is not trained.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="table.key=value, e.g. base.epochs=5.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1)] = None,
    device: Device = None,
    precision: Precision = None,
    deterministic: Deterministic = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print configuration, sizes, updates, minutes and memory; train nothing.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate all steps of a task.

    Example: barm train --recipe voc/15-1/barm --data VOC2012
    """
    with quick_imports():
        from barm.api import fit
        from barm.config import load_config
        from barm.report.tables import steps_table

    if task and group:
        raise UserError("give either --task or --group, not both")
    updates = _updates(
        seed,
        (
            ("task", "name", task),
            ("task", "groups", groups_in(group) if group else None),
            ("task", "setting", setting),
            ("runtime", "device", device),
            ("runtime", "precision", precision),
            ("runtime", "deterministic", deterministic or None),
            ("data", "root", str(real(data)) if data else None),
            ("data", "unlabelled", str(real(unlabelled)) if unlabelled else None),
        ),
    )
    recipe = _own_settings(folder, resume=resume) if recipe is None else recipe
    config = load_config(recipe, override or (), updates)
    target = folder or Path("runs") / recipe.removesuffix(".toml").replace("/", "-")
    if dry_run:
        from barm.cli.forecast import show_forecast

        show_forecast(config, target, resume=resume, only=step or None, start_from=start_from, quiet=quiet)
        return
    metrics = fit(config, out=target, resume=resume, steps=step or None, start_from=start_from, quiet=quiet)
    if is_first():
        out.print(steps_table(str(target), {str(config.method.name): metrics}))


def _own_settings(folder: Path | None, *, resume: bool) -> str:
    """The file with the settings of the run that goes on, in the place of a recipe."""
    if folder is None or not resume:
        raise UserError(
            "barm train needs --recipe (a name that `barm recipes` lists, or a TOML file), or --out RUN and --resume; "
            "for example: barm train --recipe voc/15-1/barm --data VOC2012"
        )
    _, existing = check_place(folder, resume=True)
    if not existing:
        raise UserError(f"nothing to resume: {folder} is empty; leave --resume out and give --recipe to start")
    return str(folder / CONFIG)


def _updates(seed: int | None, given: Iterable[tuple[str, str, Any]]) -> dict[str, Any]:
    """Tables of the configuration for the options that were given, each with its table, key and value."""
    updates: dict[str, Any] = {} if seed is None else {"seed": seed}
    for table, key, value in given:
        if value is not None:
            updates.setdefault(table, {})[key] = value
    return updates
