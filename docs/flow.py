"""Draw how a batch flows from a file to weights, and how a command becomes a run, into CONTRIBUTING.md.

What is drawn is looked up in the code: every line is a function with the first line of its docstring, and stands below
one whose code names it; the script fails where that is no longer so.

python docs/flow.py            # write
python docs/flow.py --check    # complain if the file is not up to date
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "src" / "barm"
PAGE = ROOT.parent.parent / "CONTRIBUTING.md"
WIDTH, INDENT = 150, 2

COMMAND = """
cli.training.train
  api.fit
    config.load_config
    engine.run.run
      engine.prepare.prepare
        engine.datasets.open_data
          engine.datasets._checked_train
            data.sources.open_source
            data.index.checked
        engine.crops.sized
      engine.datasets.train_dataset
        data.dataset.StepDataset
          labels.TaskPlan.selects
          labels.TaskPlan.train_lut
      engine.checkpoint.directory.RunDirectory.open
      engine.run._run_step
        methods.base.MethodConfig.build
        engine.checkpoint.network.load_step
        methods.base.Method.init_from
        engine.datasets.training_images
        engine.run._trainer
          engine.train.StepTrainer
          engine.train.calibrate
        engine.run._trained
          engine.loaders.train_batches
          engine.train.train_step
            engine.train.StepTrainer.update
            engine.checkpoint.directory.RunDirectory.save_partial (through `save`)
        engine.completion.completed
          methods.base.Method.finish
          engine.completion.gather
        engine.evaluate.evaluate_step
        engine.run._store
          engine.scores.scores_of
          engine.checkpoint.directory.RunDirectory.save_step
"""

BATCH = """
engine.loaders.train_batches
  data.sampler.EpochSampler
  data.loader.make_train_loader
    data.dataset.StepDataset.load (through the loader's processes)
      data.base.load
        data.sources.files.FileSource.__getitem__ (through `Images`)
          data.images.read_image
          data.masks.read_mask
      data.dataset.StepDataset.augmented
        data.transforms.train_transform
          data.transforms.choose
          data.transforms.apply_to_image
          data.transforms.apply_to_map
  engine.loaders._to_device
    batch.Batch
engine.train.StepTrainer.update
  models.frozen.Constant.__call__ (through `self.teacher`)
  models.segmenter.Segmenter.forward (through `self.model`)
    models.inputs.Normalise (through `self.normalise`)
    models.heads.GroupedHead.forward (through `self.classifier`)
      models.heads.GroupedOutput
  methods.barm.BARM.loss (through `self.method`)
    losses.segmentation.segmentation
      ops.upsampled.sum_pixels
        ops.strips.sum_strips
    losses.background.residual_cross_entropy
      batch.Term
  engine.train.StepTrainer._agree
  engine.runtime.Runtime.backward
  engine.train.StepTrainer._apply
"""
DRAWINGS = {"command": COMMAND, "batch": BATCH}


@cache
def defined(name: str) -> ast.FunctionDef | ast.ClassDef:
    """The definition of a function, a class or a method by its name below the package."""
    parts = name.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        base = ROOT.joinpath(*parts[:cut])
        file = next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)
        if file is None:
            continue
        scope: list[ast.stmt] = ast.parse(file.read_text("utf-8")).body
        found: ast.FunctionDef | ast.ClassDef | None = None
        for part in parts[cut:]:
            named = (n for n in scope if isinstance(n, ast.FunctionDef | ast.ClassDef) and n.name == part)
            found = next(named, None)
            if found is None:
                break
            scope = found.body
        if found is not None:
            return found
    raise SystemExit(f"docs/flow.py: the package has no {name}: give the line its new name")


def mentions(node: ast.AST, name: str) -> bool:
    """Does code name a function, a class, or a method of that name?"""
    words = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    words |= {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)}
    return name in words


def drawing(outline: str) -> str:
    """The outline with what every function says of itself.

    Raises:
        SystemExit: for a line that is not in the code, or that the line above it does not name.
    """
    above: list[str] = []
    rows: list[tuple[str, str]] = []
    for line in outline.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // INDENT
        name, _, through = line.strip().partition(" ")
        code = re.search(r"`(?:self\.)?(\w+)`", through)
        wanted = code[1] if code else name.rsplit(".", 1)[-1]
        del above[depth:]
        if above and not (through and code is None) and not mentions(defined(above[-1]), wanted):
            raise SystemExit(f"docs/flow.py: {above[-1]} does not name {wanted}: draw it as it is now")
        above.append(name)
        said = (ast.get_docstring(defined(name)) or ast.get_docstring(defined(name.rsplit(".", 1)[0])) or "").strip()
        rows.append((" " * INDENT * depth + f"{name} {through}".strip(), said.splitlines()[0] if said else ""))
    width = max(len(left) for left, _ in rows) + 2
    return "\n".join(f"{left:{width}}{_cut(said, WIDTH - width)}".rstrip() for left, said in rows)


def _cut(sentence: str, width: int) -> str:
    """A sentence, or as many of its words as fit."""
    return textwrap.shorten(sentence.rstrip("."), width, placeholder=" …")


def written(text: str) -> str:
    """A page with its drawings made anew."""
    for name, outline in DRAWINGS.items():
        begin, end = f"<!-- flow of a {name}: written by docs/flow.py -->", f"<!-- end of the flow of a {name} -->"
        before, rest = text.split(begin)
        text = f"{before}{begin}\n```text\n{drawing(outline)}\n```\n{end}{rest.split(end)[1]}"
    return text


def main() -> None:
    text = PAGE.read_text("utf-8")
    new = written(text)
    if "--check" not in sys.argv:
        PAGE.write_text(new, "utf-8")
    elif new != text:
        raise SystemExit("CONTRIBUTING.md is not up to date: python docs/flow.py")


if __name__ == "__main__":
    main()
