"""Data sets of the hub: what counts as a name of one, and what is said where it cannot be fetched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from barm.data.importers import hub, import_data
from barm.data.importers.annotations import ImportOptions
from barm.errors import UserError


class Stub:
    """A hub that knows some files per revision."""

    def __init__(self, files):
        self.files = files

    def dataset_info(self, name, *, revision, timeout):
        if isinstance(self.files, Exception):
            raise self.files
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in self.files[revision]])


def serve(monkeypatch, files):
    asked = []

    def snapshot(name, **about):
        asked.append(about["revision"])
        return "folder"

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: Stub(files))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_only_what_is_no_path_names_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    given = ["owner/name", "hf://owner/name", "data/name", "name", "/owner/name", "a/b/c", "data"]
    assert [hub.repository(Path(each)) for each in given] == ["owner/name"] * 2 + [None] * 5
    assert hub.repository(Path("data/name"), named=True) == "data/name"


def test_the_converted_branch_is_taken_where_there_are_no_parquet_files(monkeypatch):
    asked = serve(monkeypatch, {None: ["a.zip"], hub.CONVERTED: ["default/train/0000.parquet"]})
    assert hub.fetch("owner/name") == Path("folder")
    assert asked == [hub.CONVERTED]
    asked = serve(monkeypatch, {None: ["data/train-0.parquet"]})
    hub.fetch("owner/name")
    assert asked == [None]


class RepositoryNotFoundError(Exception):
    pass


class GatedRepoError(RepositoryNotFoundError):
    pass


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({None: [], hub.CONVERTED: ["README.md"]}, "has no Parquet files"),
        (RepositoryNotFoundError("404"), "neither a folder owner/name nor such a data set"),
        (GatedRepoError("403"), "ask for access"),
        (ConnectionError("no route\nto host"), r"cannot be fetched \(no route to host\): check the network"),
    ],
)
def test_what_cannot_be_fetched_is_told_in_one_line(files, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    serve(monkeypatch, files)
    with pytest.raises(UserError, match=told) as error:
        import_data(Path("owner/name"), tmp_path / "own", ImportOptions(), val_share=0.2)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "own").exists()
