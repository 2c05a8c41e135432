"""What a killed process leaves in a run's folder is in nobody's way."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from barm import writing
from barm.api import fit
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint import checksums, directory
from barm.engine.checkpoint.directory import CONFIG, LOG, RunDirectory
from barm.errors import UserError
from barm.extension.plan import read_known
from barm.weights.adoption import RunDirectory as Adopting
from barm.weights.calibrate import REPORT
from barm.weights.export.formats import export_step
from barm.weights.importing import import_model
from barm.weights.trained import open_trained


@pytest.fixture
def run(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return RunDirectory(tmp_path / "run")


def test_a_state_of_which_a_part_was_removed_does_not_make_a_run_unfinished(run, tiny):
    left = run.path / ".step02.partial"
    left.mkdir()
    (left / checksums.CHECKSUMS).write_text("{}")
    assert not run.has_partial()
    assert read_known(run.path, None).step == 2  # `barm extend` said that the run was not finished
    fit(tiny("barm", "2-1"), out=run.path, resume=True, quiet=True)
    assert not left.exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_killed_before_its_configuration_was_complete(resume, tmp_path, tiny):
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / f"{CONFIG}.tmp").write_text("seed = ")
    (out / ".filelock-probe-0").touch()
    fit(tiny("finetune", "2-1"), out=out, resume=resume, quiet=True, steps=[0])
    assert RunDirectory(out).finished_steps() == [0]
    assert not list(out.glob("*.tmp"))


def test_the_log_is_on_the_disk_before_a_state_or_a_step_is(run, tiny, tmp_path, monkeypatch):
    """Updates whose state is saved are not done again: rows that are lost with the power would never come back."""
    order = []
    whole = writing.sync
    for module in (writing, checksums, directory):
        monkeypatch.setattr(module, "sync", lambda path: (order.append(path.name), whole(path)), raising=False)
    fit(tiny("finetune", "2-1", "runtime.save_every=2"), out=tmp_path / "new", quiet=True, steps=[0])
    assert order.index(LOG) < order.index("trainer.pt.tmp")
    last = len(order) - 1 - order[::-1].index("model.safetensors")
    assert order[last - 1] == LOG


@pytest.fixture
def photos(tmp_path):
    make_shapes(tmp_path / "shapes", layout="folder", num_classes=2, num_train=6, num_val=1, size=(64, 64), seed=1)
    return tmp_path / "shapes/images"


@pytest.fixture
def network(tmp_path):
    from torchvision.models.segmentation import lraspp_mobilenet_v3_large

    torch.manual_seed(0)
    torch.save(
        lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).state_dict(), tmp_path / "n.pth"
    )
    return tmp_path / "n.pth"


def test_an_import_that_was_killed_is_done_again(network, photos, tmp_path, monkeypatch):
    out, names = tmp_path / "imported", ("background", "cat", "dog")
    with monkeypatch.context() as patch:
        patch.setattr(
            Adopting, "close", lambda self: self._lock.release()
        )  # a process that is killed tidies nothing up
        patch.setattr(Adopting, "save_step", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            import_model(network, out, class_names=names, images=photos)
    assert (out / CONFIG).exists()
    monkeypatch.setattr(Adopting, "add", lambda *_: 1 / 0)  # the calibration's report appears with the step
    import_model(network, out, class_names=names, images=photos)
    assert RunDirectory(out).finished_steps() == [0]
    assert REPORT in checksums.sums_of(out / "step00")
    with pytest.raises(UserError, match="exists already"):
        import_model(network, out, class_names=names, images=photos)


def test_a_flipped_bit_of_an_exported_network(run, tmp_path):
    path = tmp_path / "model.safetensors"
    export_step(run.path, path)
    open_trained(path)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged \(its tensors do not fit their checksum\)"):
        open_trained(path)


def test_an_exported_network_of_an_older_version(run, tmp_path):
    import json

    from safetensors import safe_open

    path = tmp_path / "model.safetensors"
    export_step(run.path, path)
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["barm"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no dict
    del description["crc32"]
    save_file(state, path, {"barm": json.dumps(description)})
    assert open_trained(path).method.step.index == 2
