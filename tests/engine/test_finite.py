"""A step that diverged is not stored, handed on or measured; what was good before it stays."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

import barm
from barm.api import fit
from barm.batch import Term
from barm.engine.checkpoint.directory import MODEL, RunDirectory
from barm.engine.monitor import read_log
from barm.engine.train import StepTrainer
from barm.errors import UserError
from barm.losses.background import residual_triplet
from barm.methods.barm import BARM
from editing import unchecked


def one_line(error, *parts):
    line = str(error.value)
    assert "\n" not in line
    assert all(part in line for part in parts), line


def poison(monkeypatch, step, iteration):
    """Let a weight overflow in one update of a step."""
    update = StepTrainer.update

    def broken(self, batch, **options):
        outcome = update(self, batch, **options)
        if (self.method.step.index, self.iteration) == (step, iteration):
            with torch.no_grad():
                weight = next(self.model.parameters())
                weight[(0,) * weight.dim()] = math.inf
        return outcome

    monkeypatch.setattr(StepTrainer, "update", broken)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [("base", "lr", math.inf), ("base", "lr", 1e308), ("base", "weight_decay", math.inf)],
)
def test_values_that_no_recipe_may_have(table, key, value, tiny, tmp_path):
    """Set behind the recipe's back: what the same values gave before recipes had bounds."""
    config = tiny("barm", "2-1")
    recipe = config.base
    new = recipe.lr.model_copy(update={"new": value}) if key == "lr" else value
    config = config.model_copy(update={table: recipe.model_copy(update={key: new})})
    with pytest.raises(UserError) as error:
        fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    one_line(error, "step 0 diverged", "updates", "lower the learning rates (base.lr)")
    assert not (tmp_path / "run").exists()


def test_an_infinite_weight_of_a_term(tiny, tmp_path, monkeypatch):
    """What method.triplet_weight=inf gave before recipes had bounds."""
    monkeypatch.setattr(
        "barm.methods.barm.residual_triplet", lambda a, mask, weight: residual_triplet(a, mask, weight=math.inf)
    )
    with pytest.raises(UserError) as error:
        fit(tiny("barm", "2-1", "increment.epochs=2"), out=tmp_path / "run", quiet=True)
    one_line(error, "step 1 diverged", "(increment.lr)")
    assert RunDirectory(tmp_path / "run").finished_steps() == [0]


@pytest.fixture
def damaged(tiny_run, tmp_path):
    """A run whose last step was stored by a version that did not look."""
    shutil.copytree(tiny_run, tmp_path / "damaged")
    for step in (0, 2):
        file = tmp_path / f"damaged/step{step:02d}" / MODEL
        state = load_file(file)
        state[min(n for n in state if n.endswith("running_var"))][0] = math.nan
        save_file(state, unchecked(file))
    return tmp_path / "damaged"


def test_settings_that_are_refused_today(damaged):
    """A step that was stored with a value that recipes may not have any more."""
    about = json.loads((damaged / "step01/method.json").read_text())
    about["method"]["triplet_weight"] = math.inf
    unchecked(damaged / "step01/method.json").write_text(json.dumps(about))
    with pytest.raises(UserError) as error:
        barm.load(damaged, step=1)
    one_line(error, "step01", "triplet_weight", "finite number")


def test_a_run_that_diverged_resumes_from_its_last_good_state(tiny, tmp_path, monkeypatch):
    config = tiny("barm", "3-1", "increment.epochs=4", "runtime.save_every=1")
    fit(config, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patch:
        poison(patch, step=1, iteration=3)
        with pytest.raises(UserError) as error:
            fit(config, out=tmp_path / "run", quiet=True)
    one_line(error, "step 1 diverged: after 3 of ", "first '", "(1 of ")
    run = RunDirectory(tmp_path / "run")
    assert run.finished_steps() == [0]
    assert run.load_partial(1)["iteration"] == 2
    fit(config, out=tmp_path / "run", resume=True, quiet=True)
    first, second = ((tmp_path / n / "step01" / MODEL).read_bytes() for n in ("run", "whole"))
    assert first == second


def test_the_last_update_counts(tiny, tmp_path, monkeypatch):
    """It is followed by no save of the trainer's state."""
    config = tiny("barm", "3-1")
    fit(config, out=tmp_path / "whole", steps=[0], quiet=True)
    total = max(row.iteration for row in read_log(tmp_path / "whole"))
    poison(monkeypatch, step=0, iteration=total)
    monkeypatch.setattr("barm.engine.evaluate.evaluate_step", lambda *_: pytest.fail("it is measured"))
    with pytest.raises(UserError) as error:
        fit(config, out=tmp_path / "run", steps=[0], quiet=True)
    one_line(error, f"after {total} of {total} updates")
    assert not (tmp_path / "run").exists()


def test_weights_are_looked_at_before_they_are_used(damaged, shapes_voc, tiny, tmp_path):
    with pytest.raises(UserError) as error:
        barm.evaluate(damaged, quiet=True)
    one_line(error, "step02 is of no use: 1 of its ", " tensors holds infinity or no number, first ", "running_var'; ")
    with pytest.raises(UserError, match="step02 is of no use"):
        barm.load(damaged)
    more = shutil.copytree(shapes_voc, tmp_path / "more images")
    names = (more / "classes.txt").read_text().split()
    (more / "classes.txt").write_text("\n".join([*names[:-1], "zebra"]))
    with pytest.raises(UserError, match="step02 is of no use"):
        barm.extend(damaged, more, ["zebra"], out=tmp_path / "more", quiet=True)
    assert not (tmp_path / "more").exists()
    with pytest.raises(UserError, match="is of no use"):
        fit(tiny("barm", "2-1"), out=tmp_path / "other", start_from=damaged, quiet=True)
    assert not (tmp_path / "other").exists()


def test_nothing_else_stores_such_weights(damaged, tmp_path):
    """Neither an import nor a step that is taken over."""
    state = load_file(damaged / "step00" / MODEL)
    with pytest.raises(UserError, match=r"step 7 for .* is of no use"):
        RunDirectory(tmp_path / "new").save_step(7, state, {}, None, None)
    assert not (tmp_path / "new").exists()


def test_the_next_step_does_not_build_on_it(damaged, tiny):
    shutil.rmtree(damaged / "step02")
    file = damaged / "step01" / MODEL
    state = load_file(file)
    state[min(state)].view(-1)[0] = math.inf
    save_file(state, unchecked(file))
    with pytest.raises(UserError, match="step01 is of no use"):
        fit(tiny("barm", "2-1"), out=damaged, resume=True, quiet=True)
    assert RunDirectory(damaged).finished_steps() == [0, 1]


def test_a_gradient_that_is_no_number_reaches_no_weight(tiny, tmp_path, monkeypatch):
    """0 x infinity: the root of a term without pixels is 0, and its gradient is no number."""
    loss, network = BARM.loss, tiny("barm", "2-1", "base.epochs=3")
    met = list[int]()

    def without_pixels(self, new, old, batch):
        terms = loss(self, new, old, batch)
        met.append(1)
        if len(met) in (2, 3):
            empty = (new.logits * 0).sum().sqrt()
            assert float(empty.detach()) == 0
            terms["empty"] = Term(empty, torch.zeros((), dtype=torch.int64))
        return terms

    monkeypatch.setattr(BARM, "loss", without_pixels)
    monkeypatch.setattr(StepTrainer, "_values", lambda self, terms, counts: {"loss": 0.0})
    fit(network, out=tmp_path / "run", steps=[0], quiet=True)
    state = RunDirectory(tmp_path / "run").load_model_state(0)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert len(met) > 3


def test_a_gradient_that_is_never_a_number_ends_the_run(tiny, tmp_path, monkeypatch):
    loss = BARM.loss

    def broken(self, new, old, batch):
        return {**loss(self, new, old, batch), "empty": Term((new.logits * 0).sum().sqrt(), torch.tensor(0))}

    monkeypatch.setattr(BARM, "loss", broken)
    monkeypatch.setattr(StepTrainer, "_values", lambda self, terms, counts: {"loss": 0.0})
    with pytest.raises(UserError, match="loss or its gradient was not finite"):
        fit(tiny("barm", "2-1", "base.epochs=9"), out=tmp_path / "run", steps=[0], quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_gradient_scaler_looks_at_the_gradients_itself():
    """They overflow until it has found its scale, which is no fault of the loss."""
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.tensor([1.0, torch.inf])
    trainer = StepTrainer.__new__(StepTrainer)
    trainer._sgd = torch.optim.SGD([weight])
    for scales in (True, False):
        trainer.rt = SimpleNamespace(scales=scales)
        assert bool(trainer._sound(torch.tensor(True))) is scales
        assert not trainer._sound(torch.tensor(False))
