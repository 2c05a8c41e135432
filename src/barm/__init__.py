"""barm: teach a semantic segmentation model new classes, step after step, without the old images.

import barm
barm.fit("voc/15-1/barm", data="VOC2012", out="runs/voc")
model = barm.load("runs/voc")
labels = model.predict(image)

Every command of the command line has a function here; docs/python.md lists them side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from barm.api import compare, evaluate, fit, read_config
    from barm.app.serve import serve
    from barm.bench.run import run_bench
    from barm.catalogue import recipe_names
    from barm.config import load_config
    from barm.data.base import Sample, Source
    from barm.data.check import check_folder
    from barm.data.get import get_data
    from barm.data.image_files import find_images
    from barm.data.images import read_image
    from barm.data.importers import import_data
    from barm.data.importers.annotations import ImportOptions
    from barm.data.resize import resize_folder
    from barm.data.saliency.make import make_saliency
    from barm.data.saliency.network import SaliencySettings
    from barm.data.sources import open_source
    from barm.data.sources.folder import write_split
    from barm.data.sources.shapes_disk import make_shapes
    from barm.engine.config import RunConfig
    from barm.errors import Stopped, UserError
    from barm.extension.early import ModelOptions
    from barm.extension.run import extend
    from barm.grid import run_grid
    from barm.grid_file import read_grid
    from barm.jobs.control import cancel_grid, grid_status, submit_grid
    from barm.jobs.plan import JobOptions
    from barm.labels import Step, TaskPlan
    from barm.methods import METHODS
    from barm.models.families.own import register_network
    from barm.models.inputs import InputRule
    from barm.predict.images import Prediction, PredictOptions, predict_files
    from barm.predict.model import Model, load
    from barm.predict.paper_figures import figure
    from barm.report.build import write_report
    from barm.report.figures import colourise, overlay
    from barm.settings import recipe_text
    from barm.weights.export.formats import export_step
    from barm.weights.export.int8 import export_int8
    from barm.weights.export.original import export_original, original
    from barm.weights.importing import adopt, import_model
    from barm.weights.published import export_checkpoint, import_published
    from barm.weights.push import push
    from barm.weights.recognise import recognise
    from barm.weights.torchvision import import_torchvision

    __version__: str

_HOMES = {
    "ImportOptions": "barm.data.importers.annotations",
    "InputRule": "barm.models.inputs",
    "JobOptions": "barm.jobs.plan",
    "METHODS": "barm.methods",
    "Model": "barm.predict.model",
    "ModelOptions": "barm.extension.early",
    "PredictOptions": "barm.predict.images",
    "Prediction": "barm.predict.images",
    "RunConfig": "barm.engine.config",
    "SaliencySettings": "barm.data.saliency.network",
    "Sample": "barm.data.base",
    "Source": "barm.data.base",
    "Step": "barm.labels",
    "Stopped": "barm.errors",
    "TaskPlan": "barm.labels",
    "UserError": "barm.errors",
    "adopt": "barm.weights.importing",
    "cancel_grid": "barm.jobs.control",
    "check_folder": "barm.data.check",
    "colourise": "barm.report.figures",
    "compare": "barm.api",
    "evaluate": "barm.api",
    "export_checkpoint": "barm.weights.published",
    "export_int8": "barm.weights.export.int8",
    "export_original": "barm.weights.export.original",
    "export_step": "barm.weights.export.formats",
    "extend": "barm.extension.run",
    "figure": "barm.predict.paper_figures",
    "find_images": "barm.data.image_files",
    "fit": "barm.api",
    "get_data": "barm.data.get",
    "grid_status": "barm.jobs.control",
    "import_data": "barm.data.importers",
    "import_model": "barm.weights.importing",
    "import_published": "barm.weights.published",
    "import_torchvision": "barm.weights.torchvision",
    "load": "barm.predict.model",
    "load_config": "barm.config",
    "make_saliency": "barm.data.saliency.make",
    "make_shapes": "barm.data.sources.shapes_disk",
    "open_source": "barm.data.sources",
    "original": "barm.weights.export.original",
    "overlay": "barm.report.figures",
    "predict_files": "barm.predict.images",
    "push": "barm.weights.push",
    "read_config": "barm.api",
    "read_grid": "barm.grid_file",
    "read_image": "barm.data.images",
    "recipe_names": "barm.catalogue",
    "recipe_text": "barm.settings",
    "recognise": "barm.weights.recognise",
    "register_network": "barm.models.families.own",
    "resize_folder": "barm.data.resize",
    "run_bench": "barm.bench.run",
    "run_grid": "barm.grid",
    "serve": "barm.app.serve",
    "submit_grid": "barm.jobs.control",
    "write_report": "barm.report.build",
    "write_split": "barm.data.sources.folder",
}
__all__ = [
    "METHODS",
    "ImportOptions",
    "InputRule",
    "JobOptions",
    "Model",
    "ModelOptions",
    "PredictOptions",
    "Prediction",
    "RunConfig",
    "SaliencySettings",
    "Sample",
    "Source",
    "Step",
    "Stopped",
    "TaskPlan",
    "UserError",
    "__version__",
    "adopt",
    "cancel_grid",
    "check_folder",
    "colourise",
    "compare",
    "evaluate",
    "export_checkpoint",
    "export_int8",
    "export_original",
    "export_step",
    "extend",
    "figure",
    "find_images",
    "fit",
    "get_data",
    "grid_status",
    "import_data",
    "import_model",
    "import_published",
    "import_torchvision",
    "load",
    "load_config",
    "make_saliency",
    "make_shapes",
    "open_source",
    "original",
    "overlay",
    "predict_files",
    "push",
    "read_config",
    "read_grid",
    "read_image",
    "recipe_names",
    "recipe_text",
    "recognise",
    "register_network",
    "resize_folder",
    "run_bench",
    "run_grid",
    "serve",
    "submit_grid",
    "write_report",
    "write_split",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``import barm`` and ``barm --help`` do not wait for torch."""
    from importlib import import_module, metadata

    if name == "__version__":
        try:
            return metadata.version("barm-seg")
        except metadata.PackageNotFoundError:  # a source tree that nobody installed, or only under an older name
            return "unknown"
    if name not in _HOMES:
        raise AttributeError(f"module 'barm' has no attribute '{name}'")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """Public names, for completion in a notebook."""
    return sorted({*globals(), *__all__})
