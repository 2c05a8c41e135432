"""The typed configuration of a run, complete before the run starts and saved with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from barm.catalogue import LayoutName
from barm.data.transforms import Geometry
from barm.errors import UserError, nearest
from barm.escaping import normal
from barm.labels import Setting, TaskPlan
from barm.methods import METHODS
from barm.methods.base import MethodConfig
from barm.methods.groups import Rates
from barm.models.segmenter import NetworkConfig

Policy = Literal["poly", "warm_poly", "step"]
Absent = Literal["skip", "zero"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]

MAX_SCALE = 100  # of an image's sides, or of its area


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


ClassName = Annotated[str, AfterValidator(normal)]  # as `classes.txt` is read


class PlaceConfig(_Config):
    """A further data set.

    Attributes:
        root: the data set's folder (or its parent).
        layout: arrangement of its files; `auto` detects it.
        names: class names of the mask values 1, 2, ..., where the folder has no ``classes.txt``.
    """

    root: Path
    layout: LayoutName = "auto"
    names: tuple[ClassName, ...] = ()


class DataConfig(_Config):
    """Data sets of a run.

    Attributes:
        root: the data set's folder (or its parent); ``--data`` gives it.
        layout: arrangement of its files; `auto` detects it.
        names: class names of the mask values 1, 2, ..., where the folder has no ``classes.txt``.
        classes: the run's class names for the ids 1, 2, ...; masks are then matched by name, and a data set may know
            only some of the classes. By default the data set's own.
        val: further data sets, whose validation splits are measured in addition to that of `root`.
        class_list: published list of the classes in every training image, which then decides the images of each step;
            by default the masks do.
        allow_shared: images may be in the training and in a validation split; an error by default.
        unlabelled: folder of images without masks, which later steps see beside their own: a method's distillation
            keeps the previous network's answer on them. Its images must not be measured on.
        cache_mb: MiB of training images that are kept decoded, in one file in ``$BARM_CACHE`` (0: none).
    """

    root: Path | None = Field(None, examples=["VOC2012"])
    layout: LayoutName = "auto"
    names: tuple[ClassName, ...] = ()
    classes: tuple[ClassName, ...] = ()
    val: tuple[PlaceConfig, ...] = ()
    class_list: Path | None = Field(None, examples=["train_classes.txt"])
    allow_shared: bool = False
    unlabelled: Path | None = Field(None, examples=["photos"])
    cache_mb: int = Field(0, ge=0, strict=True)

    @model_validator(mode="after")
    def _places_by_name(self) -> DataConfig:
        if self.val and not self.classes:
            raise ValueError("data.val needs data.classes: data sets are brought together by the names of the classes")
        return self


class TaskConfig(_Config):
    """The task: which classes are learned at which step.

    Attributes:
        name: ``<first>-<increment>`` such as ``15-1``, a published order such as ``15-1_b``, or ``offline``.
        groups: class names per step, instead of a name.
        setting: which images a step may use: `overlap` every one with a new class, `disjoint` none with a class of a
            later step, `partitioned` every image in one step alone.
        order: with a name, 0 learns the classes in the data set's order, any other number shuffles them by that seed.
    """

    name: str | None = Field(None, examples=["15-1"])
    groups: tuple[tuple[ClassName, ...], ...] | None = Field(None, examples=[[["cat"], ["dog"]]])
    setting: Setting = "overlap"
    order: int = Field(0, ge=0, strict=True)

    @model_validator(mode="after")
    def _one_of_both(self) -> TaskConfig:
        if (self.name is None) == (self.groups is None):
            raise ValueError("give either task.name (such as '15-1') or task.groups (class names per step)")
        return self

    def plan(self, class_names: tuple[str, ...], seed: int) -> TaskPlan:
        """The plan on a data set with these class names (background first)."""
        if self.groups is not None:
            return TaskPlan.from_names(self.groups, class_names, self.setting, seed)
        return TaskPlan.parse(self.name or "", len(class_names) - 1, self.setting, seed, self.order)


class LoraConfig(_Config):
    """Low-rank adapters of the backbone's layers, of ``backbone = "lora"``.

    Attributes:
        rank: of an adapter's two factors.
        alpha: an adapter's product is multiplied by alpha / rank.
        targets: names of the adapted layers, or the ends of their names such as ``conv2``; by default all linear layers
            and convolutions without groups.
    """

    rank: int = Field(8, ge=1, le=1024, strict=True)
    alpha: float = Field(16.0, gt=0, le=10_000)
    targets: tuple[str, ...] = ()


class StepRecipe(_Config):
    """Optimisation of a step: SGD with a schedule per iteration. Source: spec/barm.md section 4.

    Attributes:
        epochs: passes over the step's images; the length of a step, if `updates` does not say it.
        updates: number of updates, in place of `epochs`; `auto` takes 25 passes over the images in step 0, 10 over
            those of the largest later step, and at least 2000 and 500 updates, so that few images are learned too.
        batch_size: images per update and process.
        unlabelled: images of `data.unlabelled` beside them, per update and process; by default as many. Step 0, which
            has no previous network, sees none.
        lr: learning rates by part of the network.
        backbone: how it trains: as the method says (`trained`), not at all (`frozen`), or by adapters that the
            step's end merges into its weights (`lora`).
        depth_decay: factor on the backbone's rate for every block further from the head; the last block has the rate
            itself.
        lora: size of the adapters of `lora`.
        policy: how the rates fall: `poly`, `warm_poly` (no floor, and a warm-up) or `step` (a tenth every `step_size`
            iterations).
        step_size: iterations between two falls of the rates, of the `step` policy.
        warm_up: share of the updates in which the rates rise, of the `warm_poly` policy.
        warm_up_whole: the warm-up is rounded down to whole updates, as published for SSUL; DKD takes it as it is.
        momentum: of SGD.
        nesterov: momentum after Nesterov.
        weight_decay: L2 penalty.
        crop: side of the square training crop in pixels, at least 16; `auto` takes it from the sizes of the training
            images.
        geometry: `rescale` (random factor, padding, crop) or `resized_crop` (a random part, stretched to the crop).
        scale: range of the random factor, or of the part's share of the image's area.
        flip: probability of a horizontal flip; 0 where classes tell left from right.
        pad_label: label of the padding of small images: 0 (as published) or 255 (ignore).
        void_label: label of the mask's 255: ignored, or background as in one release (spec/mib.md Q1).
    """

    epochs: int | None = Field(None, ge=1, strict=True, examples=[30])
    updates: int | Literal["auto"] | None = Field(None, examples=[2000])
    batch_size: int = Field(ge=1, strict=True)
    unlabelled: int | None = Field(None, ge=1, strict=True, examples=[8])
    lr: Rates
    backbone: Literal["trained", "frozen", "lora"] = "trained"
    depth_decay: float = Field(1.0, gt=0, le=1)
    lora: LoraConfig | None = Field(None, examples=[{"rank": 8, "alpha": 16.0}])
    policy: Policy = "poly"
    step_size: int = Field(10_000, ge=1, strict=True)
    warm_up: float = Field(0.1, ge=0, le=1)
    warm_up_whole: bool = True
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(1e-4, ge=0, le=1)
    crop: int | Literal["auto"] = 513
    geometry: Geometry = "rescale"
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = Field(0.5, ge=0, le=1)
    pad_label: Literal[0, 255] = 0
    void_label: Literal[0, 255] = 255

    @model_validator(mode="before")
    @classmethod
    def _sized_adapters(cls, table: Any) -> Any:
        """Without a size, adapters have the default one, which is then stored with the run."""
        if isinstance(table, dict) and table.get("backbone") == "lora" and table.get("lora") is None:
            return {**table, "lora": {}}
        return table

    @field_validator("updates", mode="before")
    @classmethod
    def _number_or_auto(cls, updates: Any) -> Any:
        if not (updates in (None, "auto") or (type(updates) is int and updates >= 1)):
            raise ValueError(f"expected 'auto' or a whole number of updates, at least 1, got {updates!r:.40}")
        return updates

    @field_validator("crop", mode="before")
    @classmethod
    def _pixels_or_auto(cls, crop: Any) -> Any:
        if crop != "auto" and not (type(crop) is int and crop >= 16):
            raise ValueError(f"expected 'auto' or a whole number of pixels, at least 16, got {crop!r:.40}")
        return crop

    @model_validator(mode="after")
    def _pixels_in_the_crop(self) -> StepRecipe:
        if self.geometry == "rescale" and self.crop != "auto" and self.scale[1] > self.crop:
            raise ValueError(
                f"scale reaches {self.scale[1]:g}: a crop of {self.crop} pixels would show less than one pixel of the "
                f"image; expected at most {self.crop}"
            )
        return self

    @model_validator(mode="after")
    def _one_length(self) -> StepRecipe:
        if (self.epochs is None) == (self.updates is None):
            raise ValueError("give the length of a step either in epochs (such as 30) or in updates (such as 2000)")
        return self

    def length(self, per_epoch: int) -> int:
        """Number of updates of a step whose epochs have `per_epoch`."""
        if self.epochs is not None:
            return self.epochs * per_epoch
        if not isinstance(self.updates, int):
            raise ValueError("updates = 'auto' is no number before the data are open")
        return self.updates

    @property
    def side(self) -> int:
        """Side of the crop in pixels, which is known once the data are open (`barm.engine.crops.sized`)."""
        if self.crop == "auto":
            raise ValueError("crop = 'auto' has no side before the data are open")
        return self.crop

    @field_validator("scale")
    @classmethod
    def _range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not 0 < scale[0] <= scale[1] <= MAX_SCALE:
            raise ValueError(f"expected a range 0 < low <= high <= {MAX_SCALE}, got {list(scale)}")
        return scale


class EvaluationConfig(_Config):
    """Evaluation of a step.

    Attributes:
        crop: short side resized to this and centre crop (the published form), at least 16 pixels; 0 evaluates at native
            size.
        batch_size: images at a time; at native size, of images of one size.
        unseen: pixels of classes that a later step will learn are left out, or count as background (spec/mib.md Q2).
        absent: a class that no measured pixel shows, such as the background of data without one, has no score and is in
            no mean (``skip``), or scores 0 (``zero``, the published evaluation: spec/barm.md section 5).
    """

    crop: int = Field(513, ge=0, strict=True)
    unseen: Literal["ignore", "background"] = "ignore"
    absent: Absent = "skip"
    batch_size: int = Field(4, ge=1, strict=True)

    @property
    def view(self) -> str:
        """What is measured, in words: cropped or native size."""
        return f"centre crops of {self.crop} pixels" if self.crop else "native size"

    @field_validator("crop")
    @classmethod
    def _none_or_large_enough(cls, crop: int) -> int:
        if 0 < crop < 16:
            raise ValueError(f"expected 0 (native size) or at least 16 pixels, got {crop}")
        return crop


class RuntimeConfig(_Config):
    """Device, precision and logging of a run. They change results only by rounding.

    Attributes:
        device: `auto` takes a GPU where there is one.
        precision: `auto` is bf16 autocast where the processor has bf16, else fp32.
        augment: where images are scaled and cropped: in the `workers`, or on the `device`, where they then
            only decode; images differ by at most 1/255.
        workers: loader processes; -1 chooses by the number of processors.
        channels_last: memory layout of the networks.
        compile: `torch.compile` the network that trains; `auto` tries some updates with and without, and compiles if
            the run then ends earlier. A resumed run keeps that choice.
        cuda_graphs: on one GPU, record the networks as CUDA graphs, whose kernels are launched all at once.
        gradient_checkpointing: compute what is inside the backbone's blocks again in the backward pass instead of
            keeping it: the same results in less memory, a quarter slower (docs/speed.md), without CUDA graphs;
            `compile` leaves the backbone out.
        deterministic: on a GPU, only algorithms that give the same bits every time, as a processor's do; slower.
        other_code: go on, this once, within a step that another version of barm or its libraries has begun.
        save_every: iterations between two saved trainer states.
        log_every: iterations between two values of the loss in the log; between them nothing waits for the device.
        tensorboard: write event files.
        wandb: write for Weights & Biases: into the run's folder alone (`offline`), or to its server too (`online`).
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "auto"
    augment: Literal["workers", "device"] = "workers"
    workers: int = Field(-1, ge=-1, strict=True)
    channels_last: bool = True
    compile: Literal[True, False, "auto"] = False
    cuda_graphs: bool = True
    gradient_checkpointing: bool = False
    deterministic: bool = False
    other_code: bool = False
    save_every: int = Field(500, ge=1, strict=True)
    log_every: int = Field(10, ge=1, strict=True)
    tensorboard: bool = True
    wandb: Literal["off", "offline", "online"] = "off"

    def changed(self, **values: str | None) -> RuntimeConfig:
        """A copy with other values; None leaves one as it is.

        Raises:
            UserError: for a value that is not allowed.
        """
        given = {key: value for key, value in values.items() if value is not None}
        try:
            return RuntimeConfig.model_validate(self.model_dump() | given)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise UserError(f"{first['loc'][0]} is '{first['input']}': {first['msg']}") from None


def _method(value: Any) -> Any:
    """Turn a table with a `name` into the method's own configuration."""
    if isinstance(value, MethodConfig):
        return value
    if not isinstance(value, dict) or "name" not in value:
        word = value if isinstance(value, str) else "barm"
        raise UserError(f"expected a table with the method's name, got {value!r}: write method.name={word}")
    name = value["name"]
    if not isinstance(name, str) or name not in METHODS:
        raise UserError(f"unknown method '{name}'{nearest(str(name), METHODS) or '; known: ' + ', '.join(METHODS)}")
    return METHODS[name].model_validate(value)


class RunConfig(_Config):
    """Everything about a run.

    Attributes:
        seed: of weights, order and augmentation; below 2^32, as numpy's generators want it.
        data: data sets.
        task: classes of each step.
        model: architecture of the network.
        method: the method and its hyper-parameters.
        base: optimisation of step 0.
        increment: optimisation of later steps.
        evaluation: evaluation of every step.
        runtime: device, precision and logging.
    """

    seed: int = Field(1, ge=0, lt=2**32, strict=True)
    data: DataConfig = DataConfig()
    task: TaskConfig
    model: NetworkConfig = NetworkConfig()
    method: Annotated[SerializeAsAny[MethodConfig], BeforeValidator(_method)]
    base: StepRecipe
    increment: StepRecipe
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _half_a_batch(self) -> RunConfig:
        memory, size = self.method.memory, self.increment.batch_size
        if memory is not None and memory.mix == "replace" and size < 2:
            raise ValueError(
                "method.memory.mix = 'replace' puts kept images in half of every batch, but increment.batch_size is "
                f"{size}: make it 2 or more, or take mix = 'append'"
            )
        return self

    @model_validator(mode="after")
    def _distilled(self) -> RunConfig:
        if self.increment.unlabelled is not None and self.data.unlabelled is None:
            raise ValueError(
                "increment.unlabelled is a number of images of data.unlabelled, which is not set: give both"
            )
        if self.data.unlabelled is not None and not self.method.distillation:
            able = ", ".join(name for name, config in METHODS.items() if config.distillation)
            raise ValueError(
                f"data.unlabelled: {self.method.name} has no distillation, so it learns nothing from images without "
                f"labels; expected one of {able}"
            )
        return self

    def recipe(self, step_index: int) -> StepRecipe:
        """The optimisation of a step."""
        return self.base if step_index == 0 else self.increment
