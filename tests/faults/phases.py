"""The phases of the program in which a fault is injected: the command, what it writes, and who reads that."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from material import SMALL

Words = tuple[str, ...]


class Phase(NamedTuple):
    """A command that writes files.

    Attributes:
        name: in the table.
        needs: what is copied from the material.
        words: of the command.
        writes: what it writes, in its folder; the first is the result that can be removed as a whole.
        reads: commands that read the result.
        resumes: ``--resume`` goes on where the result is there already.
        window: what the random moments are in, where that is not the whole command.
        whole: folders that appear as a whole or not at all, as regular expressions.
        trains: its images are loaded by workers, and it can run in two processes.
        steps: finished steps that are left in the run that is trained.
        images: files with these endings are results that nothing checks.
    """

    name: str
    needs: Words
    words: Words
    writes: Words
    reads: tuple[Words, ...]
    resumes: bool = False
    window: str = ""
    whole: Words = ()
    trains: bool = False
    steps: int | None = None
    images: Words = ()

    def lay(self, material: Path, folder: Path) -> None:
        """Put what it starts from into a new folder."""
        folder.mkdir()
        for name in self.needs:
            place = folder / ("run" if name.startswith("run-") else name)
            copy = shutil.copytree if (material / name).is_dir() else shutil.copy2
            copy(material / name, place)
        if self.steps is not None and (folder / "run").is_dir():
            for step in (folder / "run").glob("step*"):
                if int(step.name[4:]) >= self.steps:
                    shutil.rmtree(step)

    def again(self, folder: Path) -> Words:
        """The command as somebody gives it once more."""
        there = folder / self.writes[0]
        return (*self.words, "--resume") if self.resumes and there.exists() else self.words


STEP = (r"run/step\d\d",)
READ = (("evaluate", "run", "--json", "--quiet"), ("compare", "run", "--json", "--quiet"))


def _train(recipe: str, step: int) -> Words:
    start = ("train", "--recipe", f"shapes/2-2/{recipe}", "--data", "data", "--out", "run", "--quiet")
    return (*start, *SMALL, "--step", str(step))


def _increment(name: str, recipe: str, window: str = "") -> Phase:
    needs, words = ("data", f"run-{recipe}"), (*_train(recipe, 1), "--resume")
    return Phase(name, needs, words, ("run",), READ, False, window, STEP, trains=True, steps=1)


FROM = ("--address", "voc={host}/voc.tar", "--address", "masks={host}/masks.zip")
GET = ("data", "get", "voc", "voc", "--quiet", *FROM, "--checksum", "voc={voc}", "--checksum", "masks={masks}")
IMPORT = ("weights", "import", "foreign.pth", "--out", "imported", "--class-names", "names.txt")
EXTENSION = ("--set", "increment.epochs=2", "--set", "runtime.save_every=3", "--set", "runtime.log_every=1")
PHASES: tuple[Phase, ...] = (
    Phase("index", ("data",), ("data", "check", "data", "--json"), ("cache",), (("data", "check", "data", "--json"),)),
    Phase(
        "import",
        ("labelme",),
        ("data", "import", "labelme", "imported"),
        ("imported",),
        (("data", "check", "imported", "--json"),),
        whole=("imported",),
    ),
    Phase("step 0", ("data",), _train("barm", 0), ("run",), READ[:1], True, "", STEP, trains=True),
    _increment("increment", "barm"),
    _increment("statistics pass", "star", "gather"),
    _increment("evaluation", "barm", "evaluate"),
    _increment("memory sampling", "ssul-m", "choose"),
    Phase(
        "grid",
        ("grid.toml",),
        ("compare", "--grid", "grid.toml", "--out", "grid", "--quiet"),
        ("grid",),
        (("compare", "grid/2-2-overlap-s1/finetune", "--json", "--quiet"),),
        whole=(r"grid/data", r"grid/[^/]*/[^/]*/step\d\d"),
    ),
    Phase(
        "extend",
        ("own", "data", "run-barm"),
        ("extend", "run", "--data", "own", "--out", "new", "--quiet", "--val", "data", *EXTENSION),
        ("new",),
        (("evaluate", "new", "--json", "--quiet"), ("compare", "new", "--json", "--quiet")),
        resumes=True,
        trains=True,
    ),
    Phase(
        "export",
        ("data", "run-barm"),
        ("export", "run", "--out", "model.safetensors", "--quiet"),
        ("model.safetensors",),
        (("predict", "model.safetensors", "data/JPEGImages", "--json", "--quiet"),),
    ),
    Phase(
        "report",
        ("data", "run-barm"),
        ("report", "run", "--out", "page.html", "--images", "2", "--quiet"),
        ("page.html",),
        (("report", "run", "--out", "page.html", "--images", "2", "--quiet"),),
    ),
    Phase(
        "weights import",
        ("foreign.pth", "names.txt", "photos"),
        (*IMPORT, "--calibrate", "photos"),
        ("imported",),
        (("predict", "imported", "photos", "--json", "--quiet"),),
        whole=(r"imported/step\d\d",),
    ),
    Phase(
        "data get",
        (),
        GET,
        ("voc",),
        (GET,),
        images=(".jpg", ".png"),
    ),
)
