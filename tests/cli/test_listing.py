"""Lists of recipes and methods."""

from __future__ import annotations

from barm.catalogue import recipe_names


def test_lists(cli):
    assert cli("recipes")[1].split() == recipe_names()
    assert {"voc/10-1/barm", "voc/19-1/finetune", "ade/100-5/barm", "ade/50-50/joint"} <= set(recipe_names())
    assert all(name in cli("methods")[1] for name in ("barm", "finetune", "joint"))
