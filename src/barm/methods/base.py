"""The interface of a method of class-incremental segmentation.

A method defines a step's network, its initialisation from the previous one, the loss, the learning rate of each part,
and the prediction. It does not load data, run networks, or know about devices and processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from barm.batch import Batch, Output, Term
from barm.data.exemplars import MemoryConfig
from barm.labels import INCREMENTAL, LabelPolicy, Setting, Step
from barm.losses.balanced import class_weights
from barm.losses.common import accepted, best_channel, probabilities
from barm.methods.fusion import FusionConfig, fuse, fusion_share
from barm.methods.groups import ParamGroup, Rates
from barm.methods.warm_start import WarmStartConfig, resemblance, shares
from barm.models.segmenter import NetworkConfig
from barm.ops.upsampled import map_pixels

Out = TypeVar("Out", bound=Output)
Config = TypeVar("Config", bound="MethodConfig")
Weight = Annotated[float, Field(ge=0, le=10_000)]  # of a term; 0 leaves it out
Factor = Annotated[float, Field(gt=0, le=10_000)]


MOST_WEIGHT = 10.0  # of a class's own pixels
SEGMENTATION = {
    "bce": "Binary cross-entropy of every class against the labels.",
    "ce": "Cross-entropy over the classes against the labels.",
    "focal": "Focal loss against the labels: pixels that are already right count less.",
}  # by the loss function of the labelled pixels


class MethodConfig(BaseModel):
    """Hyper-parameters that every method has.

    Attributes:
        name: of the method; `barm methods` lists them.
        loss: of the labelled pixels: sigmoid per channel (`bce`), softmax (`ce`) or `focal`.
        class_balance: exponent of the ratio of other pixels to a class's own in the step's labels, by which its own
            weigh more in the binary cross-entropy, at most tenfold; 0 weighs all alike. Background, and classes that
            the labels do not have, weigh 1.
        freeze_bn: from step 1 on, batch norm uses its running statistics and its scale and shift do not train.
        memory: old images that later steps may see again; none where it is not set.
        fusion: after every later step the network is averaged with that of the previous step (EWF).
        warm_start: at every later step the new classifier starts from the old ones and trains alone first (NeST).
        maps: names of the maps, beside images and labels, that the method uses where the data set has them; what it
            does not name is neither read nor checked.
        terms: explanation of each loss term in a sentence, by its name in the log.
        distillation: names of the terms that compare the network with the previous one and use no label, so that images
            without labels can have them too.
        warms: whether `warm_start` can be set.
        balances: whether `class_balance` can be set.
        probable: the scores are probabilities, which a threshold can be compared with.
        extends_any: `barm extend` may go on with the method from another one's network, whose classifier is replaced.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    maps: ClassVar[frozenset[str]] = frozenset()
    terms: ClassVar[Mapping[str, str]] = {}
    distillation: ClassVar[frozenset[str]] = frozenset()
    warms: ClassVar[bool] = False
    balances: ClassVar[bool] = False
    probable: ClassVar[bool] = True
    extends_any: ClassVar[bool] = False

    name: str
    loss: Literal["bce", "ce", "focal"] = "bce"
    class_balance: float = Field(0.0, ge=0, le=1)
    freeze_bn: bool = True
    memory: MemoryConfig | None = Field(None, examples=[{"size": 100}])
    fusion: FusionConfig | None = Field(None, examples=[{}])
    warm_start: WarmStartConfig | None = Field(None, examples=[{}])

    @model_validator(mode="after")
    def _can_warm(self) -> Self:
        if self.warm_start is not None and not self.warms:
            raise ValueError(f"{self.name} starts new classes in its own way: leave method.warm_start out")
        return self

    @model_validator(mode="after")
    def _can_balance(self) -> Self:
        if self.class_balance and not self.balances:
            raise ValueError(f"{self.name} weighs its labels in its own way: leave method.class_balance out")
        if self.class_balance and self.loss != "bce":
            raise ValueError(f"class_balance is for loss = 'bce', but loss is '{self.loss}': leave one of the two out")
        return self

    @property
    def base_training(self) -> dict[str, Any]:
        """Description of what step 0 minimises: loss, its mean, and the hyper-parameters that matter at step 0.

        Two methods that agree in this, and in network, data and recipe, train the same step 0, so that one may take it
        over from the other. Unless a method says it, only the same method with the same hyper-parameters agrees.
        """
        return self.model_dump(mode="json", exclude={"fusion", "warm_start"})

    @property
    def labelled_training(self) -> dict[str, Any]:
        """What a step 0 minimises that has the segmentation loss of the labels alone, for `base_training`."""
        balance = {"class_balance": self.class_balance} if self.class_balance else {}
        return {"objective": "segmentation", "loss": self.loss, **balance}

    def settled(self, images: int) -> tuple[Self, dict[str, str]]:
        """Settle what is left to the data.

        Args:
            images: number of training images.

        Returns:
            The configuration, and reasons for what was chosen by key, such as ``method.width``.
        """
        return self, {}

    def going_on(self, before: MethodConfig, index: int) -> Self:
        """This configuration as it extends a run, whose step `index` was trained as `before` says.

        Raises:
            UserError: for what that run has settled otherwise.
        """
        return self

    def ears(self, index: int) -> int:
        """Number of branches beside `head_pre` in the network of step `index`."""
        return 0

    def build(self, step: Step, network: NetworkConfig) -> Method[Any, Any]:
        """The method for one step."""
        raise NotImplementedError


class Method(ABC, Generic[Out, Config]):
    """One method at one step; built anew for every step by its configuration.

    Args:
        config: its hyper-parameters.
        step: classes of the step.
        network: configuration of the network.

    A subclass names what its network returns and its configuration, ``Method[PlainOutput, MyConfig]``, and then has the
    latter as `self.config`.
    """

    policy: LabelPolicy = INCREMENTAL
    uses_teacher: ClassVar[bool] = False
    calibrates: bool = False
    gathers: ClassVar[bool] = False
    carries: ClassVar[bool] = False

    def __init__(self, config: Config, step: Step, network: NetworkConfig) -> None:
        self.step = step
        self.network = network
        self.config = config
        self._class_weights: Tensor | None = None

    @abstractmethod
    def build_model(self) -> nn.Module:
        """Build the step's network with fresh weights (ImageNet's at step 0, if configured)."""

    @abstractmethod
    def init_from(self, model: nn.Module, previous: nn.Module) -> None:
        """Initialise from the previous step's network, in place (steps >= 1)."""

    @abstractmethod
    def loss(self, new: Out, old: Out | None, batch: Batch) -> dict[str, Term]:
        """Compute the terms of the objective.

        Args:
            new: the network's output for the batch.
            old: output of the previous step's network; None at step 0 or for methods without a teacher.
            batch: images and labels; not changed.
        """

    @abstractmethod
    def param_groups(self, model: nn.Module, rates: Rates) -> list[ParamGroup]:
        """Parameter groups with their learning rates."""

    def set_pixels(self, counts: Tensor) -> None:
        """Learn how many pixels of each channel the step's labels have, ``(C,)`` int64, if `class_balance` is set."""
        self._class_weights = class_weights(counts, self.config.class_balance, MOST_WEIGHT)

    def class_weights(self, logits: Tensor) -> Tensor | None:
        """Weights of the channels' own pixels, ``(C,)``, on the device of the logits; None where all weigh alike."""
        if self._class_weights is not None:
            self._class_weights = self._class_weights.to(logits.device)
        return self._class_weights

    def observe(self, old: Out, batch: Batch) -> Tensor:
        """Count over one batch of the calibration, if the method `calibrates`. The engine adds up the counts.

        The calibration is one pass of the previous step's network over the step's images, before the training.
        """
        raise NotImplementedError

    def calibrate(self, counts: Tensor) -> None:
        """Receive the counts of all batches and processes."""
        raise NotImplementedError

    @property
    def warms(self) -> bool:
        """Whether the new classifier has a warm start at this step."""
        return self.config.warm_start is not None and self.step.index > 0

    def resemble(self, old: Out, batch: Batch) -> Tensor:
        """Sums over one batch of what the previous network takes the new classes for, ``(new, K)`` float64."""
        return resemblance(self.scores(old), batch.label, first=self.step.num_old, number=len(self.step.new))

    def warm(self, model: nn.Module, sums: Tensor) -> None:
        """Start the new classifier from the old ones, in place, before the training.

        Args:
            model: as `init_from` left it.
            sums: of `resemble` over the step's images.
        """
        predicted = self.network.adopted is None or self.network.adopted.background != "none"
        background = self.config.loss == "ce" and predicted
        cast(Any, model).classifier.start_newest_from(shares(sums.cpu(), background=background))

    def draw(self, model: nn.Module) -> None:
        """Draw what is random in the network at an update and the same in all processes, in place.

        It is called before every update. torch's generator of the processor then has a seed that follows from the run's
        seed, the step and the update alone, so a resumed step draws the same. What a process draws by itself, such as
        dropout, is drawn in the network.
        """

    @property
    def trains(self) -> bool:
        """Whether the step has updates by gradients. Otherwise its network is what `init_from` and `gathered` make."""
        return True

    def set_length(self, per_epoch: int, total: int) -> None:
        """Learn how many updates an epoch and the whole step have, before the first one."""

    def set_conditions(self, setting: Setting, rank: int, world: int) -> None:
        """Learn by which rule the task gives images to steps, and which of how many equal parts of a batch it sees.

        It is called before anything else happens at the step.
        """

    @property
    def finishes(self) -> bool:
        """Whether `finish` does anything at this step."""
        return self.config.fusion is not None and self.step.index > 0

    def finish(self, model: nn.Module, previous: nn.Module | None) -> None:
        """Change the trained network in place, after the last update and before it is evaluated and stored.

        Every process calls it with the same tensors, so it must neither draw nor depend on the process.

        Args:
            model: the network, float32, on the device.
            previous: the network as the previous step stored it, on the CPU; None at step 0.
        """
        fusion = self.config.fusion
        if fusion is not None and previous is not None:
            share = fusion.share or fusion_share(len(self.step.new), self.step.num_seen)
            fused = fuse(previous.state_dict(), model.state_dict(), share, largest=fusion.largest)
            model.load_state_dict(fused)

    def frozen(self, model: nn.Module) -> list[nn.Parameter]:
        """Parameters that do not train whatever `param_groups` says: older classifiers, if the fusion says so."""
        if not self.finishes or self.config.fusion is None or not self.config.fusion.freeze_old_heads:
            return []
        older = cast(Any, model).classifier.head[: self.step.index]
        return [parameter for head in older for parameter in head.parameters()]

    @property
    def asks_previous(self) -> float | None:
        """A probability from which the previous network's classes replace background in the labels that are gathered.

        It labels as its own method says (`annotate`). None leaves the labels as they are.
        """
        return None

    def start_sums(self, device: torch.device) -> dict[str, Tensor]:
        """Zeros to which `gather` adds, if the method `gathers`; float64 or int64."""
        raise NotImplementedError

    def gather(self, out: Out, batch: Batch, sums: dict[str, Tensor]) -> None:
        """Add one batch to the sums, in place.

        A method that `gathers` sees the step's images once more after the training and after `finish`, step 0 included:
        augmented as in training, with the output of the network in evaluation mode and float32.
        """
        raise NotImplementedError

    def gathered(self, model: nn.Module, sums: Mapping[str, Tensor]) -> None:
        """Receive the sums of all batches and processes; the network may be changed in place."""
        raise NotImplementedError

    def hand_on(self) -> dict[str, Tensor]:
        """State for the next step, if the method `carries` one. It is stored beside the network."""
        return {}

    def take_over(self, state: Mapping[str, Tensor]) -> None:
        """Receive what the previous step handed on, before anything else happens at this step.

        It is empty where that step was imported or trained by another method.

        Raises:
            UserError: if the method cannot go on with that.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """The method's own state, which a resumed step loads instead of computing it again."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict`."""

    def train_mode(self, model: nn.Module) -> None:
        """Put the network into training mode; frozen batch norm stays in evaluation mode."""
        model.train()
        if self.bn_frozen:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    @property
    def bn_frozen(self) -> bool:
        """Whether batch norm is frozen at this step."""
        return self.config.freeze_bn and self.step.index > 0

    def scores(self, out: Out) -> Tensor:
        """Probabilities per class at feature resolution, ``(N, C, h, w)``."""
        return probabilities(out.logits, self.config.loss)

    def upsampled(self, out: Out) -> Tensor:
        """The values that are upsampled to the images' size before the prediction, ``(N, K, h, w)``."""
        return self.scores(out)

    def decided(self, values: Tensor) -> Tensor:
        """Convert upsampled values to probabilities per class, ``(N, K, H, W)`` -> ``(N, C, H, W)``, pixel by pixel.

        `predict` returns the channel where they are largest. They can be averaged over several views of an image.
        """
        return values

    def background_parts(self, out: Out) -> tuple[Tensor, ...]:
        """What the background's logit is the sum of, step by step, ``(N, 1, h, w)`` each; empty if it is not a sum."""
        return ()

    def predict(self, out: Out, size: tuple[int, int]) -> Tensor:
        """Predict channels per pixel, ``(N, H, W)`` int64: probabilities, then upsampling, then argmax.

        Source: spec/barm.md section 2 (upsampling the logits first is not the same).
        """
        labels: Tensor = map_pixels(best_channel, self.scores(out), size=size)
        return labels

    def confidence(self, out: Out, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The largest probability per pixel and its channel, ``(N, H, W)`` each."""
        best, channel = map_pixels(lambda scores: tuple(scores.max(dim=1)), self.scores(out), size=size)
        return best, channel

    def annotate(self, out: Out, batch: Batch, threshold: float) -> Tensor:
        """Label the background with old classes of which this network is sure, ``(N, H, W)`` int64.

        These labels decide which classes an image shows when an exemplar memory chooses images.

        Args:
            out: output of this step's trained network for the batch.
            batch: images of this step with its training labels.
            threshold: on the probability; 1 leaves the labels as they are.

        Source: spec/dkd.md section 8.
        """
        best, channel = self.confidence(out, batch.size)
        return accepted(best, channel, batch.label, threshold=threshold, first=1)

    def trainable(self, *modules: nn.Module) -> list[nn.Parameter]:
        """Parameters of the modules, without those of frozen batch norm."""
        skip = nn.modules.batchnorm._BatchNorm if self.bn_frozen else ()
        return [
            parameter
            for module in modules
            for child in module.modules()
            if not isinstance(child, skip)
            for parameter in child.parameters(recurse=False)
        ]
