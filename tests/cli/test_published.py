"""The paper's command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from barm.cli import published as commands
from barm.cli.published import parser, to_config
from barm.config import load_config
from barm.engine.checkpoint.directory import RunDirectory
from barm.errors import UserError

README = (
    "--data_root DIR --model deeplabv3bga_resnet101 --crop_val --lr 0.001 --batch_size {batch} --train_epoch {epochs} "
    "--loss_type bce_loss --dataset voc --task 15-1 --lr_policy poly --pseudo --pseudo_thresh 0.7 --bn_freeze --amp "
    "--curr_step {step} --subpath BARM {initial} --overlap"
)


def test_the_published_commands_are_the_published_recipe():
    initial = to_config(
        parser("train.py").parse_args(README.format(batch=16, epochs=50, step=0, initial="--initial").split())
    )
    later = to_config(parser("train.py").parse_args(README.format(batch=8, epochs=20, step=1, initial="").split()))

    recipe = load_config("voc/15-1/barm")
    assert initial.base == recipe.base
    assert later.increment == recipe.increment
    assert later.method == recipe.method
    assert later.model == recipe.model
    assert later.task == recipe.task
    assert later.evaluation == recipe.evaluation.model_copy(update={"absent": "zero"})


def test_other_flags():
    words = "--data_root D --dataset ade --task 100-10 --output_stride 8 --loss_type ce_loss --random_seed 3"
    config = to_config(parser("train.py").parse_args([*words.split(), "--separable_conv", "--num_classes", "3"]))
    assert config.model.output_stride == 8
    assert config.method.loss == "ce"
    assert not config.method.pseudo
    assert not config.method.freeze_bn
    assert config.task.setting == "disjoint"
    assert config.evaluation.crop == 0
    assert config.seed == 3
    with pytest.raises(UserError, match="did you mean 'deeplabv3bga_resnet101'"):
        to_config(parser("train.py").parse_args(["--data_root", "D", "--model", "deeplabv3bga_resnet11"]))


@pytest.mark.slow
def test_initial_then_incremental(shapes_voc, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(commands.MODELS, "small", {"backbone": "test_resnet"})
    monkeypatch.chdir(tmp_path)
    words = [
        "--data_root", str(shapes_voc), "--model", "small", "--crop_val", "--crop_size", "48", "--batch_size", "4",
        "--train_epoch", "1", "--task", "2-1", "--pseudo", "--bn_freeze", "--overlap", "--backbone_weights", "none",
    ]  # fmt: skip
    commands.train_main([*words, "--initial"])
    commands.train_main([*words, "--curr_step", "1"])
    names = [f"checkpoints/BARM/2-1/overlap/step{k}/small_voc_2-1_step_{k}_overlap.pth" for k in range(3)]
    assert all(Path(name).is_file() for name in names)
    trained = capsys.readouterr().out.split("... saved")[-2]
    RunDirectory(Path("checkpoints/BARM/2-1/overlap/run")).forget(0)  # only the official files remain
    commands.eval_main([*words, "--curr_step", "2"])
    assert "Mean IoU" in trained
    assert capsys.readouterr().out.strip().splitlines()[-1] in trained
    with pytest.raises(UserError, match="train it first"):
        commands.train_main([*words, "--curr_step", "1", "--subpath", "nowhere"])
