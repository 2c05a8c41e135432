"""`barm demo` at a size of seconds: stopped, gone on with, drawn anew."""

import importlib
import signal

import pytest

from barm.cli.start import advice
from barm.errors import Stopped

demo = importlib.import_module("barm.demo")


@pytest.fixture
def small(monkeypatch, tiny_settings):
    """The demo with few, small images and one epoch per step."""
    for name, value in {"NUM_TRAIN": 48, "NUM_VAL": 8, "SIDE": 32, "NUM_SCENES": 1}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "SHORTER", dict.fromkeys(demo.METHODS_SHOWN, tiny_settings))


def stop_at(name, monkeypatch):
    """Let training end as by Ctrl-C when a method is about to begin."""
    fit = demo.fit

    def fit_until(config, **more):
        metrics = fit(config, **more, **({"steps": [0]} if config.method.name == name else {}))
        if config.method.name == name:
            raise Stopped("go on with --resume", signal.SIGINT)
        return metrics

    monkeypatch.setattr(demo, "fit", fit_until)
    return fit


def test_a_stopped_demo_goes_on(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = demo.Path("runs/demo")
    fit = stop_at("finetune", monkeypatch)
    with pytest.raises(Stopped, match="the same command goes on"):
        demo.demo(out, seed=3)
    commands = {"demo", "train", "evaluate"}
    assert "  barm demo --seed 3" in advice(demo.Path("runs"), commands)
    written = (out / "barm/step04/model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(demo, "fit", fit)
    capsys.readouterr()
    results = demo.demo(out, seed=3, quiet=True)
    assert [len(metrics) for metrics in results.values()] == [5, 5, 5]
    assert (out / "barm/step04/model.safetensors").stat().st_mtime_ns == written
    assert "Open runs/demo/report.html" in capsys.readouterr().out
    assert (out / "demo.png").is_file()
    assert not any(line.startswith("  barm demo") for line in advice(demo.Path("runs"), commands))
    (out / "note.txt").touch()
    stop_at("barm", monkeypatch)
    with pytest.raises(Stopped):
        demo.demo(out, seed=3, quiet=True)
    assert not (out / "note.txt").exists()
