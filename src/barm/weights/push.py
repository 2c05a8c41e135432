"""Push a trained step to a hub."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import tomli_w

from barm.engine.checkpoint.differences import to_table
from barm.engine.checkpoint.directory import METRICS, RunDirectory
from barm.engine.config import RunConfig
from barm.errors import UserError
from barm.weights.card import Repository, card
from barm.weights.export.formats import export_step
from barm.weights.export.original import as_original, export_original
from barm.weights.hub import MODEL, told
from barm.weights.trained import open_trained

ONNX, STATE = "model.onnx", "model.pth"
MARKS = ("config.toml", METRICS)  # which every push writes, in either form
FORMS = (  # names of the files of all forms: what a push does not write again is of another form, and goes
    *(MODEL, ONNX, STATE),
    *("config.json", "classes.txt", "preprocessor_config.json", "generation_config.json", f"{MODEL}.index.json"),
    f"model-{'[0-9]' * 5}-of-{'[0-9]' * 5}.safetensors",
)


def push(
    run: Path | str,
    name: str,
    step: int | None = None,
    *,
    private: bool = False,
    token: str | None = None,
    licence: str | None = None,
    data_licence: str | None = None,
    onnx: bool = False,
    original: bool = False,
    dry_run: Path | str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> str:
    """Push a trained step to a hub, with a model card made from the run.

    What an earlier push has left in the repository and this one does not write again, such as the files of the other
    form (`original`) or ``model.onnx``, is deleted in the same commit, whoever wrote the files of these names. Files of
    other names stay.

    Args:
        run: the run's folder.
        name: ``owner/name``; made if there is none.
        step: which step; the last by default.
        private: for a new repository; one that is public already is refused.
        token: to log in with; by default what ``hf auth login`` has stored, or ``HF_TOKEN``.
        licence: of the weights, as the hub names licences, such as ``mit``; none is claimed by default.
        data_licence: of the images that the step was trained on, likewise.
        onnx: add the ONNX file.
        original: push what the library that the network came from loads, in place of barm's own file.
        dry_run: write what would be pushed into this folder instead.
        progress: called with what is being done.

    Returns:
        Address on the hub, or the folder.

    Raises:
        UserError: bad input, not logged in, no permission, no network.
    """
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with told(name):
        validate_repo_id(name)
    directory = RunDirectory(Path(run))
    index = directory.last_step() if step is None else step
    directory.require(index)
    target = None if dry_run is None else Path(dry_run)
    if target is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already: choose another --dry-run folder")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        _fill(folder, directory, index, Repository(name, licence, data_licence, onnx, original), progress)
        if target is not None:
            shutil.copytree(folder, target, dirs_exist_ok=True)
            return str(target)
        progress(f"pushing to {name}")
        return _upload(folder, name, f"Step {index} of {directory.path.name}", private, token)


def _fill(
    folder: Path, directory: RunDirectory, index: int, repository: Repository, progress: Callable[[str], None]
) -> None:
    """Write the files of a repository."""
    if repository.original:
        found = as_original(open_trained(directory.path, index))
        single, repository = found.family == "torchvision", repository._replace(outputs=found.names)
        export_original(directory.path, folder / STATE if single else folder, step=index, progress=progress)
    else:
        export_step(directory.path, folder / MODEL, "safetensors", index, progress)
    if repository.onnx:
        export_step(directory.path, folder / ONNX, "onnx", index, progress)
    done = [directory.read(i, METRICS) for i in range(index + 1) if directory.has(i, METRICS)]
    (folder / METRICS).write_text(json.dumps(done, indent=1) + "\n", "utf-8")
    (folder / MARKS[0]).write_text(tomli_w.dumps(to_table(without_places(directory.config()))), "utf-8")
    (folder / "README.md").write_text(card(directory, index, repository), "utf-8")


def without_places(config: RunConfig) -> RunConfig:
    """Remove the paths of the machine from a configuration."""
    data = config.data.model_copy(update={"root": None, "class_list": None, "val": ()})
    return config.model_copy(update={"data": data, "model": config.model.model_copy(update={"weights": None})})


def _upload(folder: Path, name: str, message: str, private: bool, token: str | None) -> str:
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with told(name):
        repository = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(repository.repo_id).private:
            raise UserError(f"{name} exists already and is public: make it private on its page, or leave --private out")
        there = api.list_repo_files(repository.repo_id)
        api.upload_folder(
            repo_id=repository.repo_id,
            folder_path=folder,
            commit_message=message,
            delete_patterns=list(FORMS) if set(MARKS) <= set(there) else None,  # else it is not from a push of ours
        )
    return str(repository)
