"""The folder of a run: steps appear complete or not at all, one process writes, results are counts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout
from pydantic import ValidationError
from safetensors.torch import save
from torch import Tensor

from barm.engine.checkpoint import checksums, place, reading
from barm.engine.checkpoint.differences import AGREEING, difference, other_class, settings, to_table
from barm.engine.checkpoint.images import Images, check_same
from barm.engine.checkpoint.provenance import continued
from barm.engine.checkpoint.schema import misfit_state
from barm.engine.config import RunConfig
from barm.engine.distributed.launcher import launch, restarted
from barm.engine.finite import check_finite
from barm.errors import UserError
from barm.models.segmenter import NetworkConfig
from barm.reading import Unfit, parse_toml, read_pickled, read_text
from barm.writing import as_json, linked, save_pickled, sync, sync_present, write_atomically

CARRIED = "state.safetensors"  # of a method, for the next step
EXTENSION = "extension.json"  # in the folder of a run that `barm extend` made
CONFIG, LOCK, LOG = place.CONFIG, place.LOCK, "log.csv"
MODEL, METHOD, COUNTS = "model.safetensors", "method.json", "counts.json"
METRICS, MEMORY, IMAGES = "metrics.json", "memory.json", "pictures.json"


class RunDirectory:
    """The folder of one run; docs/runs.md describes its layout.

    Args:
        path: ``runs/<name>``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: FileLock | None = None
        self._made, self._began = False, False  # by this process: the folder, the run
        self.images: Images | None = None

    def step_path(self, index: int) -> Path:
        """Folder of a finished step."""
        return self.path / f"step{index:02d}"

    def is_complete(self, index: int) -> bool:
        """Whether the step is finished."""
        return self.step_path(index).is_dir()

    def is_extension(self) -> bool:
        """Whether `barm extend` made the run."""
        return os.path.lexists(self.path / EXTENSION) or EXTENSION in reading.sums(self.path, None)

    def extension(self) -> dict[str, Any] | None:
        """What `barm extend` wrote; None for any other run."""
        return reading.value(self.path / EXTENSION, self.path) if self.is_extension() else None

    def finished_steps(self) -> list[int]:
        """Indices of the finished steps, ascending."""
        found = ((p, p.name[4:]) for p in self.path.glob("step[0-9][0-9]*"))
        return sorted(int(n) for p, n in found if n.isascii() and n.isdigit() and p.is_dir())

    def last_step(self) -> int:
        """The newest finished step."""
        steps = self.finished_steps()
        if not steps:
            raise UserError(f"{self.path} has no finished step: expected a folder that `barm train` wrote")
        return steps[-1]

    def check_place(self, *, resume: bool) -> tuple[bool, bool]:
        """Check whether a run can be written or resumed here. Nothing is changed.

        Returns:
            Whether the folder exists, and whether anything is in it.

        Raises:
            UserError: if the folder has contents and `resume` is off, is none, or there is no run to resume.
        """
        return place.check_place(self.path, resume=resume)

    def open(
        self,
        config: RunConfig,
        provenance: Mapping[str, Any],
        *,
        resume: bool,
        same: Sequence[str] = AGREEING,
        images: Images | None = None,
    ) -> None:
        """Create or reopen the folder, and lock it against a second run.

        What is in it must agree in the tables `same`, and with `data` among these in the images of its finished
        steps; an unfinished one always. `images` are stored with every step.

        Raises:
            UserError: if the folder has contents and `resume` is off, holds no run, another configuration or a state
                of other images, or is in use.
        """
        present, existing = self.check_place(resume=resume)
        self.path.mkdir(parents=True, exist_ok=True)
        if (self.path / LOCK).exists() and not (self.path / LOCK).is_file():
            raise UserError(f"{self.path / LOCK} is no file: remove it")
        lock = FileLock(self.path / LOCK, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise UserError(f"{self.path} is in use by another run: wait for it or choose another --out") from error
        self._lock = lock
        self._made, self._began = not present, not existing
        for index in self.finished_steps():  # what a loss of power has left, or brought back
            shutil.rmtree(self._partial(index), ignore_errors=True)
        if existing:
            self._check_classes(provenance.get("classes", ()))
            if images is not None:  # before settings that the images decide
                self._check_images(images, finished="data" in same)
            self.check_same(config, same)
            provenance = continued(self.provenance(), provenance)
            if not checksums.is_whole(self.path / CONFIG):
                self._complete()
        self.images = images
        document = {**to_table(config), "provenance": dict(provenance)}
        write_atomically(self.path / CONFIG, checksums.sealed(tomli_w.dumps(document)).encode())

    def _complete(self) -> None:
        """Give checksums to what older versions wrote, as it is: the run is about to get the format that has them."""
        states = [p.parent for p in self.path.glob(".step*.partial/trainer.pt")]
        for folder in (*(self.step_path(i) for i in self.finished_steps()), *states):
            names = (p.name for p in sorted(folder.iterdir()) if p.suffix in (".json", ".safetensors"))
            checksums.complete(folder, [name for name in names if name != checksums.CHECKSUMS])
        if os.path.lexists(self.path / EXTENSION):
            checksums.complete(self.path, [EXTENSION])

    def check_same(self, config: RunConfig, same: Sequence[str] = AGREEING) -> None:
        """Refuse a configuration that differs from the stored one in the tables `same`."""
        found = difference(settings(self.config(), same), settings(config, same))
        if found is not None:
            raise UserError(
                f"{self.path} was started with another [{found[0]}] ({found[1]}): resume with the recipe and settings "
                f"it was started with (see {self.path / CONFIG}), or choose another --out"
            )

    def _check_classes(self, names: Sequence[str]) -> None:
        found = other_class(dict(enumerate(self.provenance().get("classes", ()))), names) if names else None
        if found is not None:
            raise UserError(
                f"{self.path} was started on data with other classes ({found}): resume with the data it was started "
                "on, or choose another --out"
            )

    def _check_images(self, now: Images, *, finished: bool) -> None:
        """Refuse other images than those of steps that have a record; imported steps and older versions have none."""
        steps = [i for i in self.finished_steps() if finished and self.has(i, IMAGES)]
        states = [p.parent / IMAGES for p in self.path.glob(".step*.partial/trainer.pt")]
        unfinished = [(reading.value(p, self.path), False) for p in states if reading.belongs(p, self.path)]
        check_same([*((self.read(i, IMAGES), self.has(i, COUNTS)) for i in steps), *unfinished], now, self.path)

    def forget(self, first: int) -> None:
        """Remove the finished steps from `first` on, unless one of them was stopped and can go on."""
        steps = range(first, max([first, *self.finished_steps()]) + 2)
        if any(self._partial(i).exists() and not self.step_path(i).is_dir() for i in steps):
            return
        for index in self.finished_steps():
            if index >= first:
                shutil.rmtree(self.step_path(index))

    def close(self) -> None:
        """Release the lock. What a new run has written is removed if it never got as far as a saved state."""
        if self._lock is None:
            return
        self._lock.release()
        self._lock = None
        (self.path / LOCK).unlink(missing_ok=True)
        if not self._began or self.finished_steps() or self.has_partial() or not self.path.is_dir():
            return
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if self._made:
            self.path.rmdir()

    def config(self) -> RunConfig:
        """The saved configuration.

        Raises:
            UserError: if there is none, or it is damaged.
        """
        table = self._document()
        table.pop("provenance", None)
        try:
            table["model"] = NetworkConfig.stored(table.get("model", {}))
            return RunConfig.model_validate(table)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            what = f"{'.'.join(map(str, first['loc']))}: {str(first['msg']).removeprefix('Value error, ')}"
            raise reading.damaged(self.path / CONFIG, what) from None

    @property
    def goes_on(self) -> bool:
        """Whether torchrun has started this process again, after it had begun or resumed this run."""
        return restarted() and (self.path / CONFIG).is_file() and self.provenance().get("launch") == launch()

    def provenance(self) -> dict[str, Any]:
        """Versions, machine and commit that the run was made with, as saved."""
        found: Any = self._document().get("provenance", {})
        classes = found.get("classes", []) if isinstance(found, dict) else None
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise reading.damaged(self.path / CONFIG, "provenance is no table, or its classes no list of names")
        return dict(found)

    def _document(self) -> dict[str, Any]:
        path = self.path / CONFIG
        try:
            text = read_text(path)
            table = parse_toml(text, path)
        except FileNotFoundError:
            raise UserError(f"{self.path} is not a run: {place.instead(self.path)}") from None
        except Unfit as error:
            raise reading.damaged(path, error.what) from None
        checksums.check_seal(text, path)
        return table

    def save_step(
        self,
        index: int,
        state: Mapping[str, Tensor],
        method: Mapping[str, Any],
        counts: Tensor | None,
        metrics: Mapping[str, Any] | None,
        memory: Sequence[Mapping[str, Any]] | None = None,
        carried: Mapping[str, Tensor] | None = None,
        more: Mapping[str, Any] = {},
    ) -> None:
        """Write a finished step atomically: temporary folder, flush, rename.

        An imported step has no counts and no metrics until it is evaluated; `more` are further JSON files of it. Few
        methods keep a memory of images, or carry a state of their own.

        Raises:
            UserError: for tensors that hold anything but numbers; nothing is written then.
        """
        tensors = {MODEL: state, **({CARRIED: carried} if carried else {})}
        for part in tensors.values():
            check_finite(part, f"step {index} for {self.path}")
        plain = None if counts is None else counts.tolist()
        values = {METHOD: method, COUNTS: plain, METRICS: metrics, MEMORY: memory, **more}
        files = {name: save(_apart(part)) for name, part in tensors.items()}
        files |= {name: as_json(value) for name, value in values.items() if value is not None}
        if self.images is not None:
            files[IMAGES] = as_json(self.images, indent=None)
        sync_present(self.path / LOG)  # of updates that are not done again
        with self._appearing(index) as beside:
            checksums.fill(beside, files)
        sync(self.path)
        shutil.rmtree(self._partial(index), ignore_errors=True)

    @contextmanager
    def _appearing(self, index: int) -> Iterator[Path]:
        """A folder to be filled, which becomes the step's at the end; nothing is left of it if that fails."""
        beside = self.path / f".step{index:02d}.tmp"
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir()
            yield beside
            beside.rename(self.step_path(index))
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def take_step(self, index: int, other: RunDirectory, changed: Mapping[str, Any], leave: Sequence[str] = ()) -> None:
        """Take over another run's finished step. Tensors are hard links if the file system allows it, else copies.

        Args:
            index: of the step, in both runs.
            other: the other run.
            changed: JSON files with other contents than there, by name.
            leave: names of files that are left out.
        """
        there = other._finished(index)
        with self._appearing(index) as beside:
            left = {*changed, *leave, IMAGES, checksums.CHECKSUMS}  # those of the other run, not of this one
            kept = [file for file in sorted(there.iterdir()) if file.name not in left and file.suffix != ".tmp"]
            for file in kept:
                linked(file, beside / file.name)
            checksums.fill(
                beside,
                {name: as_json(value) for name, value in changed.items()},
                [file.name for file in kept],
                reading.sums(there, other.path),
            )
        sync(self.path)

    def add(self, index: int, files: Mapping[str, Any]) -> None:
        """Add further JSON files to a finished step, by name."""
        folder = self._finished(index)
        reading.sums(folder, self.path)
        checksums.replace(folder, {name: as_json(value) for name, value in files.items()})

    def load_model_state(self, index: int) -> dict[str, Tensor]:
        """Load the tensors of a finished step."""
        return self._tensors(index, MODEL)

    def load_carried(self, index: int) -> dict[str, Tensor]:
        """Load what a finished step's method hands on; empty if it hands on nothing."""
        return self._tensors(index, CARRIED) if self.has(index, CARRIED) else {}

    def _tensors(self, index: int, name: str) -> dict[str, Tensor]:
        return reading.tensors(self._finished(index) / name, self.path)

    def read(self, index: int, name: str) -> Any:
        """Read one of a finished step's JSON files."""
        return reading.value(self._finished(index) / name, self.path)

    def has(self, index: int, name: str) -> bool:
        """Whether a finished step has this file, or had it; `read` reports a file that is not sound.

        Raises:
            UserError: if nobody can say: the folder's checksums are missing or damaged.
        """
        return self.is_complete(index) and reading.belongs(self.step_path(index) / name, self.path)

    def require(self, index: int) -> None:
        """Refuse a step that is not finished."""
        self._finished(index)

    def _finished(self, index: int) -> Path:
        if not self.is_complete(index):
            done = ", ".join(map(str, self.finished_steps())) or "none"
            raise UserError(f"{self.path} has no finished step {index} (finished: {done}); train it first")
        return self.step_path(index)

    def _partial(self, index: int) -> Path:
        return self.path / f".step{index:02d}.partial"

    def is_rest(self) -> bool:
        """Whether here is only what an import leaves that was killed; the next one begins anew."""
        begun = (self.path / CONFIG).is_file() and not self.finished_steps() and not self.has_partial()
        return begun and "imported" in self.provenance()

    def has_partial(self) -> bool:
        """Whether there is a saved state of an unfinished step."""
        found = (p.name.removeprefix(".step").partition(".")[0] for p in self.path.glob(".step[0-9]*.partial"))
        return any(not self.step_path(int(number)).is_dir() for number in found if number.isdigit())

    def save_partial(self, index: int, state: Mapping[str, Any]) -> None:
        """Store the trainer's state of an unfinished step, and its images' record."""
        sync_present(self.path / LOG)  # of updates that are not done again
        self._partial(index).mkdir(exist_ok=True)
        target, record = (self._partial(index) / name for name in ("trainer.pt", IMAGES))
        try:
            if not (target.exists() and (self.images is None or record.exists())):
                known = {} if self.images is None else {IMAGES: as_json(self.images, indent=None)}
                checksums.replace(record.parent, known)
            save_pickled(target, {"format": checksums.FORMAT, **state})
        except BaseException:
            if not target.exists():
                shutil.rmtree(self._partial(index))
            raise

    def load_partial(self, index: int) -> dict[str, Any] | None:
        """Load the trainer's state of an unfinished step, or None."""
        path = self._partial(index) / "trainer.pt"
        try:
            state = read_pickled(path)
            checksums.check_archive(path)
        except FileNotFoundError:
            return None
        except Unfit as error:
            raise self.damaged_partial(index, error.what) from None
        if isinstance(state, dict) and isinstance(found := state.pop("format", 0), int):
            checksums.check_format(found, path)
        wrong = misfit_state(state)
        if wrong is not None:
            raise self.damaged_partial(index, wrong)
        return dict(state)

    def damaged_partial(self, index: int, what: str) -> UserError:
        """An error about the state of an unfinished step."""
        path = self._partial(index) / "trainer.pt"
        return UserError(f"{path} is damaged ({what[:160]}): remove {path.parent} to train this step from its start")


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state on the processor, without any that share memory, as tied weights do."""
    seen = set[int]()
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        result[name] = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(own.untyped_storage().data_ptr())
    return result
