"""Images without masks beside a step's own: they are distilled on, and nothing else."""

from __future__ import annotations

import shutil

import pytest
import torch

from barm.api import evaluate, fit
from barm.batch import Batch
from barm.data.sources.shapes_disk import make_shapes
from barm.engine.checkpoint.directory import RunDirectory
from barm.engine.config import RuntimeConfig, StepRecipe
from barm.engine.runtime import Runtime
from barm.engine.train import StepTrainer
from barm.errors import Stopped, UserError
from barm.labels import TaskPlan
from barm.methods import METHODS
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig

NETWORK = NetworkConfig(backbone="test_resnet", channels=16, pretrained=False)
RATES = Rates(new=0.1, aspp=0.1, old=0.1, backbone=0.1)
DISTILLING = [name for name, config in METHODS.items() if config.distillation]


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    make_shapes(root / "data", layout="folder", num_classes=4, num_train=7, num_val=1, size=(60, 40), seed=9)
    return next(path.parent for path in (root / "data").rglob("*train*") if path.suffix in (".jpg", ".png"))


def trainer_of(name):
    torch.manual_seed(0)
    rt, plan = Runtime(RuntimeConfig(device="cpu", precision="32-true")), TaskPlan.parse("2-1", 4)
    config = METHODS[name]()
    previous = config.build(plan[0], NETWORK).build_model()
    method = config.build(plan[1], NETWORK)
    model = method.build_model()
    method.init_from(model, previous)
    recipe = StepRecipe(epochs=1, batch_size=2, lr=RATES)
    return StepTrainer(method, rt.place(model), rt.constant(previous), recipe, 4, rt, seed=1)


@pytest.mark.parametrize("name", DISTILLING)
def test_they_have_the_terms_of_the_distillation_alone(name):
    trainer = trainer_of(name)
    method, shared = trainer.method, trainer.method.config.distillation
    image = torch.randn(5, 3, 48, 48)
    with torch.no_grad():
        new, old = trainer.model.eval()(image), trainer.teacher(image)
    label = torch.randint(0, 4, (5, 48, 48))
    label[2:] = 255
    terms = trainer._terms(new, old, Batch(image, label, {"index": torch.arange(5)}))
    with torch.no_grad():
        first, rest = (
            method.loss(trainer.model(image[s]), trainer.teacher(image[s]), Batch(image[s], label[s], {}))
            for s in (slice(2), slice(2, 5))
        )
    assert list(terms) == list(first)
    assert shared & set(first)
    for key, term in terms.items():
        both = key in shared
        expected = first[key].whole + (rest[key].whole if both else 0)
        assert torch.allclose(term.whole, expected, rtol=1e-4, atol=1e-6), key
        assert term.number == first[key].number + (rest[key].number if both else 0), key


@pytest.mark.parametrize("name", DISTILLING)
def test_a_distillation_uses_no_label(name):
    trainer, image = trainer_of(name), torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        new, old = trainer.model.eval()(image), trainer.teacher(image)
    one, other = (trainer.method.loss(new, old, Batch(image, label, {})) for label in _labels())
    for key in trainer.method.config.distillation & set(one):
        assert torch.equal(one[key].whole, other[key].whole), key
        assert one[key].number == other[key].number, key


def _labels():
    return torch.randint(0, 4, (2, 48, 48)), torch.full((2, 48, 48), 255)


def test_a_method_without_distillation_refuses_them(tiny, photos):
    with pytest.raises(UserError, match=r"finetune has no distillation.*expected one of barm"):
        tiny("finetune", "2-1", f"data.unlabelled={photos}")


def test_a_number_of_images_that_are_not_there(tiny):
    with pytest.raises(UserError, match=r"data\.unlabelled, which is not set"):
        tiny("barm", "2-1", "increment.unlabelled=3")


def test_what_is_measured_on_is_refused(tiny, photos, shapes_voc, tmp_path):
    """Whatever its name is, and however deep it lies."""
    copy = shutil.copytree(photos, tmp_path / "photos")
    name = (shapes_voc / "ImageSets/Segmentation/val.txt").read_text().split()[0]
    (copy / "deep").mkdir()
    shutil.copy(shapes_voc / "JPEGImages" / f"{name}.jpg", copy / "deep/other.jpg")
    with pytest.raises(UserError, match=r"data\.unlabelled: 1 image of .* 'deep/other\.jpg'.*allow_shared"):
        fit(tiny("barm", "2-1", f"data.unlabelled={copy}"), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("augment", ["workers", "device"])
def test_a_stopped_run_ends_in_the_same_weights(augment, tiny, photos, tmp_path, monkeypatch):
    """Later steps differ from those without such images, step 0 does not, and other images are refused."""
    words = (f"data.unlabelled={photos}", "increment.unlabelled=3", f"runtime.augment={augment}")
    config = tiny("dkd-m", "3-1", *words)
    fit(config, out=tmp_path / "whole", quiet=True)
    update = StepTrainer.update
    monkeypatch.setattr(StepTrainer, "update", lambda self, *a, **k: _stopping(update, self, *a, **k))
    with pytest.raises(Stopped):
        fit(config, out=tmp_path / "broken", quiet=True)
    monkeypatch.undo()
    less = shutil.copytree(photos, tmp_path / "less")
    next(less.iterdir()).unlink()
    other = config.model_copy(update={"data": config.data.model_copy(update={"unlabelled": less})})
    with pytest.raises(UserError, match=r"data\.unlabelled: 7 images there, 6 here: '.*' is gone"):
        fit(other, out=tmp_path / "broken", resume=True, quiet=True)
    fit(config, out=tmp_path / "broken", resume=True, quiet=True)
    fit(tiny("dkd-m", "3-1", words[2]), out=tmp_path / "without", quiet=True)
    whole, broken, without = (weights(tmp_path / name) for name in ("whole", "broken", "without"))
    assert whole == broken
    assert whole[0] == without[0]
    assert whole[1] != without[1]


def test_a_run_is_measured_without_them(tiny, photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "photos")
    fit(tiny("barm", "3-1", f"data.unlabelled={copy}"), out=tmp_path / "run", quiet=True)
    shutil.rmtree(copy)
    assert evaluate(tmp_path / "run")["miou"] == RunDirectory(tmp_path / "run").read(1, "metrics.json")["miou"]


def _stopping(update, trainer, *words, **named):
    outcome = update(trainer, *words, **named)
    stop = trainer.method.step.index == 1 and trainer.iteration == 1
    return outcome._replace(stop=outcome.stop or stop)


def weights(out):
    return [(RunDirectory(out).step_path(i) / "model.safetensors").read_bytes() for i in range(2)]
