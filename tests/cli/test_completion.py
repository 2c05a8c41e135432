"""What the shell completes."""

from __future__ import annotations

import json

import pytest

from barm.cli import main
from barm.cli.completion import STATIC
from barm.predict.images import KINDS


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("barm tra", ["train"]),
        ("barm train --recipe shapes/6-1/il", ["shapes/6-1/ilt"]),
        ("barm evaluate ru", ["runs/deep/mine"]),
        ("barm evaluate runs/deep/", ["runs/deep/mine"]),
        ("barm compare runs/deep/mine r", ["runs/deep/mine"]),
        ("barm evaluate runs/deep/mine --step ", ["0", "1", "2"]),
        ("barm predict runs/deep/mine p.png --step 0 --classes ", "classes of step 0"),
        ("barm predict runs/deep/mine p.png --write mask,o", ["mask,overlay"]),
        ("barm bench --part lo", ["losses", "loader"]),
        ("barm data check --layout v", ["voc"]),
    ],
)
def test_completion(line, offered, tmp_path, tiny_run, monkeypatch, capsys):
    (tmp_path / "runs/deep").mkdir(parents=True)
    (tmp_path / "runs/deep/mine").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["barm"])
    words = line.split(" ")
    for name, value in (("_BARM_COMPLETE", "complete_bash"), ("COMP_WORDS", line), ("COMP_CWORD", len(words) - 1)):
        monkeypatch.setenv(name, str(value))
    with pytest.raises(SystemExit):
        main()
    if offered == "classes of step 0":
        offered = json.loads((tiny_run / "step00/metrics.json").read_text())["learned"]
    assert sorted(capsys.readouterr().out.split()) == sorted(offered)


def test_completion_knows_what_there_is():
    from barm.bench.run import PARTS

    assert STATIC["write"] == KINDS
    assert set(STATIC["part"]) == set(PARTS)
