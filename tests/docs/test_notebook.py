"""The notebook of examples/ runs from its first cell to its last, and is committed without outputs."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
NOTEBOOK = Path(__file__).parents[2] / "examples/own_model.ipynb"
LARGEST = 32 * 1024  # bytes of the committed file


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run in a new folder, by a kernel of this interpreter; a cell that fails is an error."""
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("segmentation_models_pytorch")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = tmp_path_factory.mktemp("notebook")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.delenv("MPLBACKEND", raising=False)
        client.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute(
            env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    return notebook


def printed(notebook: Any) -> str:
    """What all cells wrote to standard output."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


@pytest.mark.graph
def test_the_new_class_is_learned_and_the_old_ones_are_kept(executed):
    row = re.compile(r"^(\S.*?) +([\d.]+|-) +([\d.]+)$", re.MULTILINE)
    table = {name: (before, float(after)) for name, before, after in row.findall(printed(executed))}
    assert next(iter(table)) == "background"
    assert table["amber-plain-star"][0] == "-"
    assert table["amber-plain-star"][1] > 50
    before, after = table["mean of the old"]
    assert float(before) > 75
    assert float(before) - after < 10


@pytest.mark.graph
def test_it_draws_images(executed):
    outputs = [output for cell in executed.cells if cell.cell_type == "code" for output in cell.outputs]
    drawn = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == 1
    image = Image.open(io.BytesIO(base64.b64decode(drawn[0])))
    assert min(image.size) > 300
    assert len(image.convert("RGB").getcolors(maxcolors=1 << 20)) > 100


@pytest.mark.graph
def test_the_library_and_onnxruntime_give_the_same_labels(executed):
    assert "Unet with 4 outputs" in printed(executed)
    for library in ("segmentation_models_pytorch", "onnxruntime"):  # barm itself may compute in bf16
        assert re.search(rf"{library}: at least (100\.00|99\.9\d)% of an image's pixels", printed(executed))
    assert executed.cells[-2].execution_count == sum(cell.cell_type == "code" for cell in executed.cells)


def test_it_is_committed_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) >= 6
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert NOTEBOOK.stat().st_size < LARGEST
