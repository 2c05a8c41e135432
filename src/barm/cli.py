"""The command line: parses, calls, prints."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from barm.errors import Stopped, UserError

app = typer.Typer(
    name="barm",
    help="Teach a segmentation model new classes without the old images.",
    epilog="New here? `barm demo` shows the whole story in about three minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Make or check a data set.", no_args_is_help=True)
weights_app = typer.Typer(help="Official checkpoints, both ways.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(weights_app, name="weights")
out = Console()
SPACE, PLACE = "free some space or choose another --out", "choose another place"
UNWRITABLE = {  # what to do about an output that cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS), SPACE),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), PLACE),
}

Recipe = Annotated[str, typer.Option(help="A name that `barm recipes` lists, or a TOML file.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show only errors and results.")]
RunArg = Annotated[Path, typer.Argument(help="A folder that `barm train` wrote.")]
StepOpt = Annotated[int | None, typer.Option("--step", min=0, help="Which step; the last by default.")]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where it runs.")]
Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed", "16-mixed"] | None, typer.Option(help="bf16 where the processor has it.")
]


def main() -> None:
    """Entry point of ``barm``."""
    guarded(lambda: app(standalone_mode=True))


def guarded(command: Callable[[], Any]) -> None:
    """Run a command: bad input or an output that cannot be written is one line and status 2; a stop is 128 + signal."""
    try:
        command()
    except UserError as error:
        _fail(str(error), 2)
    except Stopped as stopped:
        _fail(str(stopped), 128 + stopped.signum)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        place = error.filename or "the output folder"
        _fail(f"cannot write {place}: {os.strerror(error.errno)}; {UNWRITABLE[error.errno]}", 2)


def _fail(message: str, status: int) -> None:
    """One line on stderr, from the main process only, and the exit status."""
    if os.environ.get("RANK", "0") == "0":
        print(f"barm: {' '.join(message.split())}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(status)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where the data, the runs and the picture go.")] = Path(
        "runs/demo"
    ),
    seed: int = 1,
    quiet: Quiet = False,
) -> None:
    """Draw a data set, train BARM, fine-tuning and joint training on it, and compare.

    Example: barm demo
    """
    from barm.demo import demo as run_demo

    if folder.exists() and any(folder.iterdir()) and not (folder / ".demo").exists():
        raise UserError(f"{folder} exists and no demo wrote it: choose another --out")
    run_demo(folder, seed=seed, quiet=quiet)


@app.command()
def train(
    recipe: Recipe,
    data: Annotated[Path | None, typer.Option(help="The data set's folder.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<recipe> by default.")] = None,
    task: Annotated[str | None, typer.Option(help="For recipes without a task: <first>-<increment>.")] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Classes of a step, comma-separated; once per step, instead of --task.")
    ] = None,
    setting: Annotated[Literal["overlap", "disjoint", "partitioned"] | None, typer.Option()] = None,
    step: Annotated[list[int] | None, typer.Option("--step", min=0, help="Only this step (may be repeated).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    start_from: Annotated[
        Path | None, typer.Option(help="Take over step 0 of another run instead of training it.")
    ] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="table.key=value, e.g. base.epochs=5.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1)] = None,
    device: Device = None,
    precision: Precision = None,
    quiet: Quiet = False,
) -> None:
    """Train and evaluate all steps of a scenario.

    Example: barm train --recipe voc/15-1/barm --data VOC2012
    """
    from barm.api import fit
    from barm.config import load_config
    from barm.report.tables import steps_table

    updates: dict[str, Any] = {"task": {}, "runtime": {}, "data": {}}
    if task and group:
        raise UserError("give either --task or --group, not both")
    if task:
        updates["task"]["name"] = task
    if group:
        updates["task"]["groups"] = [[c.strip() for c in g.split(",")] for g in group]
    for table, key, value in (
        ("task", "setting", setting),
        ("runtime", "device", device),
        ("runtime", "precision", precision),
        ("data", "root", str(data.resolve()) if data else None),
    ):
        if value is not None:
            updates[table][key] = value
    if seed is not None:
        updates["seed"] = seed
    config = load_config(recipe, override or (), {k: v for k, v in updates.items() if v != {}})
    target = folder or Path("runs") / recipe.removesuffix(".toml").replace("/", "-")
    metrics = fit(config, out=target, resume=resume, steps=step or None, start_from=start_from, quiet=quiet)
    if os.environ.get("RANK", "0") == "0":
        out.print(steps_table(str(target), {str(config.method.name): metrics}))


@app.command()
def evaluate(
    run: RunArg,
    step: StepOpt = None,
    data: Annotated[Path | None, typer.Option(help="Another data set with the same classes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Evaluate a step anew: mIoU of old, new and all classes, and every class.

    Example: barm evaluate runs/voc-15-1-barm --step 3
    """
    import json

    from barm.api import evaluate as evaluate_run
    from barm.report.tables import classes_table, steps_table

    metrics = evaluate_run(run, step, data, quiet=as_json)
    if as_json:
        print(json.dumps(metrics, indent=1))
    else:
        out.print(classes_table(metrics))
        out.print(steps_table(str(run), {"": [metrics]}))


@app.command()
def predict(
    run: RunArg,
    images: Annotated[list[Path], typer.Argument(help="Pictures.")],
    folder: Annotated[Path, typer.Option("--out", help="Where masks and overlays go.")],
    step: StepOpt = None,
) -> None:
    """Write a mask and an overlay for every picture.

    Example: barm predict runs/demo/barm photo.jpg --out predictions
    """
    from barm.api import check_pictures, load, read_picture
    from barm.report.figures import save_prediction

    model = load(run, step)
    check_pictures(images)
    for path in images:
        picture = read_picture(path)
        label = model.predict(picture)
        folder.mkdir(parents=True, exist_ok=True)
        save_prediction(folder / path.stem, picture, label, model.colours)
        shown = ", ".join(model.class_names[c] for c in sorted(set(label.flatten().tolist())) if c)
        out.print(f"{folder / path.stem}_mask.png: {shown or 'background only'}", highlight=False)


@app.command()
def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders that `barm train` wrote.")] = None,
    grid: Annotated[Path | None, typer.Option(help="A TOML file: methods x tasks x seeds to train first.")] = None,
    data: Annotated[Path | None, typer.Option(help="The grid's data set.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Where tables, the chart and a grid's runs go.")] = None,
    quiet: Quiet = False,
) -> None:
    """Compare runs: one table, and with --out CSV, JSON, Markdown, LaTeX and a chart. A grid trains what is missing.

    Example: barm compare --grid benchmarks/shapes-small.toml --out runs/small
    """
    from barm.grid import read_grid, run_grid
    from barm.report.compare import read_results, summarise, tables, write_comparison

    if not runs and grid is None:
        raise UserError("nothing to compare: give folders of runs, or --grid FILE")
    paths, failed = list(runs or []), list[str]()
    read_results(paths)  # complains before a grid works for hours
    if grid is not None:
        folder = folder or Path("runs") / grid.stem
        trained, failed = run_grid(read_grid(grid), folder, data, _progress(quiet), quiet=quiet)
        paths += trained
    if paths:
        results = read_results(paths)
        for table in tables(summarise(results)):
            out.print(table)
        if folder is not None:
            for path in write_comparison(folder, results):
                out.print(str(path), highlight=False)
    if failed:
        raise UserError(f"{len(failed)} runs failed, the first: {failed[0]}")


def _progress(quiet: bool) -> Callable[[str], None]:
    """Tells about a grid's runs on stderr."""
    console = Console(stderr=True, quiet=quiet)
    return lambda line: console.print(line, highlight=False, markup=False)


@app.command()
def bench(
    model: Annotated[str, typer.Option(help="A published model name, or a timm backbone.")] = "deeplabv3bga_resnet101",
    task: Annotated[str, typer.Option(help="<first>-<increment>.")] = "15-1",
    classes: Annotated[int, typer.Option(min=2, help="Of the data set, without background.")] = 20,
    step: Annotated[int, typer.Option("--step", min=1, help="Which step is measured.")] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 2,
    crop: Annotated[int, typer.Option(min=16, help="Side of the training crop in pixels.")] = 513,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of everything, in turn.")] = 5,
    part: Annotated[
        list[str] | None,
        typer.Option(help="step, losses, evaluation, loader (these by default), growth, profile; may be repeated."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Pictures for the loader; drawn there if missing.")] = Path(
        "runs/bench-data"
    ),
    folder: Annotated[Path | None, typer.Option("--out", help="Write bench.json, and growth.png, there.")] = None,
    device: Device = None,
    precision: Precision = None,
    quiet: Quiet = False,
) -> None:
    """Measure an update against the plain way and the bare network: time, memory, and the data path.

    Example: barm bench --task 100-10 --classes 150 --batch 4 --part losses
    """
    from barm.bench.report import print_result, write_result
    from barm.bench.run import run_bench, setting_of

    setting = setting_of(model, task, classes, step, batch, crop, device or "auto", precision or "auto")
    parts = part or ["step", "losses", "evaluation", "loader"]
    result = run_bench(setting, parts, rounds, data, _progress(quiet))
    print_result(out, result)
    if folder is not None:
        for path in write_result(folder, result):
            out.print(str(path), highlight=False)


@app.command()
def recipes() -> None:
    """List the recipes: <data>/<task>/<method>; any other task works in the same place."""
    from barm.config import recipe_names

    print("\n".join(recipe_names()))


@app.command()
def methods() -> None:
    """List the methods with what they are."""
    from barm.methods import METHODS

    table = Table(box=None)
    for name, config in METHODS.items():
        table.add_row(f"[bold]{name}[/bold]", (config.__doc__ or "").strip().splitlines()[0])
    out.print(table)


@data_app.command("make")
def data_make(
    kind: Annotated[Literal["shapes"], typer.Argument(help="What to draw.")],
    root: Annotated[Path, typer.Argument(help="A new folder.")],
    layout: Annotated[Literal["voc", "ade", "folder"], typer.Option()] = "folder",
    classes: Annotated[int | None, typer.Option(help="By default 20 (voc), 150 (ade), 10 (folder).")] = None,
    num_train: Annotated[int, typer.Option("--train", help="Training pictures.")] = 1000,
    num_val: Annotated[int, typer.Option("--val", help="Validation pictures.")] = 200,
    size: Annotated[str, typer.Option(help="<width>x<height>, or one number for both.")] = "96",
    seed: int = 0,
) -> None:
    """Draw pictures and masks in a real folder layout.

    Example: barm data make shapes data/shapes --layout voc --size 500x375
    """
    from barm.data.shapes_disk import make_shapes

    width, _, height = size.partition("x")
    if not width.isdigit() or not (height or width).isdigit():
        raise UserError(f"--size expects <width>x<height> such as 500x375, got '{size}'")
    pixels = (int(width), int(height or width))
    make_shapes(root, layout=layout, num_classes=classes, num_train=num_train, num_val=num_val, size=pixels, seed=seed)
    out.print(f"{root}: {num_train} training and {num_val} validation pictures in the {layout} layout", highlight=False)


@data_app.command("check")
def data_check(
    root: Annotated[Path, typer.Argument(help="The data set's folder.")],
    layout: Annotated[Literal["auto", "voc", "ade", "folder"], typer.Option()] = "auto",
    class_lists: Annotated[
        Path | None, typer.Option(help="Also write train.txt and val.txt in the published class list format there.")
    ] = None,
) -> None:
    """Look at every file: missing masks, wrong sizes, unknown ids, unreadable pictures.

    Example: barm data check data/shapes
    """
    from barm.data.check import check_folder

    report = check_folder(root, layout)
    table = Table(title=f"{root} ({report.layout})", title_justify="left")
    for column in ("id", "class", *(f"{s.split} pictures" for s in report.splits)):
        table.add_column(column, justify="left" if column == "class" else "right")
    for i, name in enumerate(report.class_names[1:]):
        table.add_row(str(i + 1), name, *(str(s.per_class[i]) for s in report.splits))
    table.add_section()
    table.add_row("", "pictures in all", *(str(s.num_images) for s in report.splits))
    out.print(table)
    if class_lists is not None:
        from barm.data import open_source
        from barm.data.index import checked, write_class_list

        class_lists.mkdir(parents=True, exist_ok=True)
        for split in ("train", "val"):
            write_class_list(class_lists / f"{split}.txt", checked(open_source(report.layout, root, split)))
    if report.problems or report.broken:
        for line in (*report.broken, *map(str, report.problems)):
            out.print(f"[red]✗[/red] {line}", highlight=False, soft_wrap=True)
        raise UserError(f"{root}: {len(report.broken) + len(report.problems)} problems, listed above")
    out.print("no problems", highlight=False)


@weights_app.command("import")
def weights_import(
    checkpoint: Annotated[Path, typer.Argument(help="An official .pth.")],
    folder: Annotated[Path, typer.Option("--out", help="The run's folder; earlier steps may be there already.")],
    dataset: Annotated[Literal["voc", "ade"], typer.Option()] = "voc",
    task: Annotated[str, typer.Option(help="The task it was trained on.")] = "15-1",
    step: Annotated[int, typer.Option(min=0, help="The step it was saved after.")] = 0,
    model: Annotated[str, typer.Option(help="The official model name.")] = "deeplabv3bga_resnet101",
    method: Annotated[str, typer.Option(help="barm, ssul, or finetune for a DeepLab with one classifier.")] = "barm",
) -> None:
    """Turn an official checkpoint into a step of a run, which can be evaluated and continued.

    Example: barm weights import deeplabv3bga_resnet101_voc_15-1_step_0_overlap.pth --task 15-1 --step 0 --out runs/voc
    """
    from barm.official.weights import import_published

    import_published(checkpoint, folder, dataset=dataset, task=task, step=step, model=model, method=method)
    out.print(f"{folder}: step {step} of {dataset} {task} from {checkpoint}", highlight=False)


@weights_app.command("export")
def weights_export(
    run: RunArg,
    target: Annotated[Path, typer.Argument(help="The .pth to write.")],
    step: StepOpt = None,
) -> None:
    """Write a step in the official format.

    Example: barm weights export runs/voc model.pth --step 0
    """
    from barm.official.weights import export_checkpoint

    export_checkpoint(run, target, step=step)
    out.print(f"{target}", highlight=False)


if __name__ == "__main__":
    main()
