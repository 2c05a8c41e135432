"""The memory of a run: stored with every step, bounded, and the next step's candidates."""

from __future__ import annotations

import pytest

from barm.api import fit
from barm.engine.store import MEMORY, RunDirectory


@pytest.mark.parametrize("name", ["ssul-m", "dkd-m"])
def test_the_memory_is_stored_with_the_run(name, tiny, tmp_path):
    fit(tiny(name, "2-1", "method.memory.size=5"), out=tmp_path / "run", quiet=True)
    run = RunDirectory(tmp_path / "run")
    assert not run.has(0, MEMORY)
    for step in (1, 2):
        memory = run.read(step, MEMORY)
        assert 0 < len(memory) <= 5
        assert all(set(e["channels"]) <= set(range(1, 2 + step)) for e in memory)


def test_any_method_may_keep_a_memory(tiny, tmp_path):
    fit(tiny("finetune", "3-1", "method.memory.size=3"), out=tmp_path / "run", quiet=True)
    assert len(RunDirectory(tmp_path / "run").read(1, MEMORY)) == 3
