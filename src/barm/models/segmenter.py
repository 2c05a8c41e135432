"""The network: backbone, ASPP and head; its configuration; copying weights from one step to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from barm.errors import UserError, nearest
from barm.models import mobilenet
from barm.models.adopted import AdoptedConfig, AdoptedSegmenter
from barm.models.backbone import Side, create_backbone, drop_stem_activation, has_low_level, reveal_stages
from barm.models.download import HUB, check_named
from barm.models.inputs import IMAGENET_MEAN, IMAGENET_STD, InputRule, Normalise, Order, timm_rule
from barm.models.neck import AddedPoolNeck, AtrousNeck, DecoderNeck, Neck, make_separable
from barm.models.pairs import Form, pair_backbone, pair_neck
from barm.models.pyramid import make_neck

ASPP_DROPOUT = 0.1
Dilation = Annotated[int, Field(ge=1, strict=True)]
Centre = Annotated[float, Field(ge=-1000, le=1000)]
Spread = Annotated[float, Field(gt=0, le=1000)]
NECKS: dict[str, Callable[..., Neck]] = {"v3": AtrousNeck, "v3plus": DecoderNeck, "added_pool": AddedPoolNeck}
BACKBONES = {"resnet50": "resnet50.tv_in1k", "resnet101": "resnet101.tv_in1k", "mobilenet": mobilenet.NAME}
MODELS: dict[str, dict[str, Any]] = {  # published names
    **{f"deeplabv3bga_{name}": {"backbone": backbone} for name, backbone in BACKBONES.items()},
    **{f"deeplabv3_{name}": {"backbone": backbone} for name, backbone in BACKBONES.items()},
    **{f"deeplabv3plus_{name}": {"backbone": b, "decoder": "v3plus"} for name, b in BACKBONES.items()},
}


class NetworkConfig(BaseModel):
    """Architecture of the network and its initial weights.

    Attributes:
        backbone: any timm model name, or ``deeplab_mobilenetv2`` (docs/backbones.md).
        output_stride: ratio of an image's side to that of the feature map; a plain transformer has its patch's.
        decoder: `v3` classifies ASPP's result, `v3plus` refines it with the features at stride 4, `added_pool` is the
            body of MiB and PLOP (spec/mib.md section 7). `auto` is `v3plus` with separable convolutions where the
            backbone has features at stride 4, which thin objects need, and `v3` elsewhere.
        activation: of the backbone; `leaky_relu` has the slope 0.01 of MiB's and PLOP's in-place batch norm.
        stem_activation: whether an activation follows a ResNet's first batch norm; RCIL was published without.
        separable: depthwise separable convolutions behind the backbone; with `v3plus` only, as published.
        channels: D, width of ASPP and of every branch.
        rates: dilations of the three atrous ASPP branches; by default 6, 12, 18 at stride 16 and twice that at 8.
        dropout: share of the features that are left out at the end of ASPP, while training.
        pretrained: start from ImageNet weights through timm's loader.
        weights: start from a local state dict of the backbone instead.
        mean: of the images' channels, for values in 0..1, as the backbone's weights want it. By default what timm
            says of pretrained weights, and ImageNet's for a network that starts from none.
        std: deviation of the images' channels, likewise.
        order: of the channels that the backbone wants.
        adopted: a network of another library in place of all of the above but mean, std and order; `barm weights
            import` and `barm extend MODEL` write it.
        derived: keys that follow from the others where they are not given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    derived: ClassVar[frozenset[str]] = frozenset({"mean", "std"})

    backbone: str = "resnet101.tv_in1k"
    output_stride: Literal[8, 16] = 16
    decoder: Literal["auto", "v3", "v3plus", "added_pool"] = "v3"
    activation: Literal["relu", "leaky_relu"] = "relu"
    stem_activation: bool = True
    separable: bool = False
    channels: int = Field(256, ge=4, strict=True)
    rates: tuple[Dilation, Dilation, Dilation] | None = Field(None, examples=[[6, 12, 18]])
    dropout: float = Field(ASPP_DROPOUT, ge=0, lt=1)
    pretrained: bool = True
    weights: Path | None = Field(None, examples=["backbone.safetensors"])
    mean: tuple[Centre, Centre, Centre] = IMAGENET_MEAN
    std: tuple[Spread, Spread, Spread] = IMAGENET_STD
    order: Order = "rgb"
    adopted: AdoptedConfig | None = Field(
        None, examples=[{"family": "smp", "classifier": "segmentation_head.0", "width": 16, "outputs": [0, 1]}]
    )

    @model_validator(mode="before")
    @classmethod
    def _input_rule(cls, values: Any) -> Any:
        """Fill in mean and deviation, so that they are stored with every network."""
        if not isinstance(values, dict):
            return values
        backbone, pretrained = (values.get(k, cls.model_fields[k].default) for k in ("backbone", "pretrained"))
        trained = pretrained or values.get("weights") is not None
        if not isinstance(backbone, str) or all(values.get(name) is not None for name in ("mean", "std")):
            return values
        rule = timm_rule(backbone) if trained and values.get("adopted") is None else InputRule()
        given = {name: value for name, value in values.items() if value is not None}
        return {"mean": rule.mean, "std": rule.std, **given}

    @model_validator(mode="before")
    @classmethod
    def _by_backbone(cls, values: Any) -> Any:
        """Decide on the decoder where it is left to the backbone, so that the decision is stored with every network."""
        if not isinstance(values, dict) or values.get("decoder") != "auto":
            return values
        backbone, stride = (values.get(k, cls.model_fields[k].default) for k in ("backbone", "output_stride"))
        fine = values.get("adopted") is None and stride in (8, 16) and has_low_level(str(backbone), stride)
        return {"separable": fine, **values, "decoder": "v3plus" if fine else "v3"}

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Read a network's configuration from a run's file. Files without a normalisation rule used ImageNet's.

        Raises:
            UserError: if its backbone would have to be fetched.
        """
        if not isinstance(values, Mapping):  # whatever a file holds
            return cls.model_validate(values)
        if values.get("adopted") is None:
            check_named(values.get("backbone"), "the description of the network")
        return cls.model_validate({**InputRule()._asdict(), **values})

    @property
    def rule(self) -> InputRule:
        """Rule by which images are normalised."""
        return InputRule(self.mean, self.std, self.order)

    @model_validator(mode="after")
    def _backbone_of_timm(self) -> NetworkConfig:
        if ":" in self.backbone and not self.backbone.startswith(HUB):
            raise ValueError(
                f"backbone = '{self.backbone}': expected the name of a network of timm, or {HUB[0]}owner/name"
            )
        return self

    @model_validator(mode="after")
    def _separable_where_published(self) -> NetworkConfig:
        if self.separable and self.decoder != "v3plus":
            raise ValueError("separable convolutions exist for decoder = 'v3plus' only: leave one of the two out")
        return self

    @classmethod
    def from_name(cls, name: str, **options: Any) -> NetworkConfig:
        """The configuration of a published model name such as ``deeplabv3plus_resnet101``."""
        if name not in MODELS:
            raise UserError(f"unknown model '{name}'{nearest(name, MODELS) or '; known: ' + ', '.join(MODELS)}")
        return cls(**MODELS[name], **options)


class Segmenter(nn.Module):
    """Backbone, ASPP and head.

    Args:
        config: configuration of the network.
        head: builds the classifier from the neck, the width of its branches and the group sizes.
        group_sizes: classes per step without background.
        pretrained: honour the configuration's ImageNet weights (step 0 only; later steps take the previous step's).
        levels: fill the output's `levels` with the backbone's stages (ResNets only), before or after their last
            activation.
        init_std: of the classifier's fresh convolutions; by default Kaiming's.
        branches: form of the old branch, where the 3x3 convolutions of the backbone's blocks and those of ASPP exist
            twice (ResNets only).

    Raises:
        UserError: for a backbone or settings that do not go with `levels` or `branches`.
    """

    def __init__(
        self,
        config: NetworkConfig,
        head: Callable[[Neck, int, Sequence[int]], nn.Module],
        group_sizes: Sequence[int],
        *,
        pretrained: bool,
        levels: Side | None = None,
        init_std: float | None = None,
        branches: Form | None = None,
    ) -> None:
        super().__init__()
        if branches is not None and config.separable:
            raise UserError("parallel branches of separable convolutions cannot be merged: leave model.separable out")
        self.normalise = Normalise(config.rule)
        self.backbone = create_backbone(
            config.backbone,
            config.output_stride,
            pretrained and config.pretrained,
            config.weights if pretrained else None,
            low_level=config.decoder == "v3plus",
            leaky=config.activation == "leaky_relu",
        )
        if not config.stem_activation:
            drop_stem_activation(self.backbone)
        self._stages = reveal_stages(self.backbone, levels) if levels else []
        rates = config.rates or ((6, 12, 18) if config.output_stride == 16 else (12, 24, 36))
        neck = make_neck(self.backbone, NECKS[config.decoder], rates, config.channels, config.dropout)
        if branches is not None:
            pair_backbone(self.backbone, branches)
            pair_neck(neck, branches)
        self.classifier = head(neck, config.channels, group_sizes)
        if config.separable:
            make_separable(self.classifier)
        if neck.refine:
            for module in self.classifier.modules():
                if isinstance(module, nn.Conv2d):
                    if init_std is None:
                        nn.init.kaiming_normal_(module.weight)
                    else:
                        nn.init.normal_(module.weight, std=init_std)

    def forward(self, image: Tensor) -> Any:
        """Apply the network: RGB ``(N, 3, H, W)``, uint8 or normalised -> the head's output at feature resolution."""
        out = self.classifier(self.backbone(self.normalise(image)))
        return self._with_levels(out) if self._stages else out

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch 2.11 cannot compile what a module hands out aside
    def _with_levels(self, out: Any) -> Any:
        return out._replace(levels=tuple(stage.take() for stage in self._stages))


def build_network(
    config: NetworkConfig,
    head: Callable[[Neck, int, Sequence[int]], nn.Module],
    group_sizes: Sequence[int],
    *,
    pretrained: bool,
    levels: Side | None = None,
    init_std: float | None = None,
    branches: Form | None = None,
) -> nn.Module:
    """Build the network that a configuration describes. Arguments are those of `Segmenter`.

    Raises:
        UserError: for `levels` or `branches` of a network of another library.
    """
    if config.adopted is None:
        more: dict[str, Any] = {"levels": levels, "init_std": init_std, "branches": branches}
        return Segmenter(config, head, group_sizes, pretrained=pretrained, **more)
    if levels or branches:
        raise UserError(
            f"{config.backbone} has no stages of a ResNet, whose features this method distils: choose another method, "
            "such as --recipe folder/mib"
        )
    return AdoptedSegmenter(config.adopted, head, group_sizes, config.rule)


def hand_over(model: nn.Module, previous: nn.Module, *, new: Sequence[str], dropped: Sequence[str] = ()) -> None:
    """Copy every tensor of `previous` into the tensor of the same name in `model`, in place.

    Args:
        model: this step's network.
        previous: last step's network.
        new: prefixes of the names that only `model` has, or has with another meaning.
        dropped: prefixes of the names that only `previous` has.

    Raises:
        UserError: if any other tensor is missing on one side or has another shape.
    """
    own = model.state_dict()
    given = {name: value for name, value in previous.state_dict().items() if not name.startswith(tuple(dropped))}
    fresh = {name for name in own if name.startswith(tuple(new))}
    check_names(own, given, fresh, "the previous step's model")
    model.load_state_dict({**own, **{name: given[name] for name in own if name not in fresh}})


def check_names(own: dict[str, Tensor], given: dict[str, Tensor], fresh: set[str], what: str) -> None:
    """Compare names and shapes of two state dicts.

    Args:
        own: the network's.
        given: the state dict to be loaded.
        fresh: names that may be missing from `given`.
        what: name of `given` in the message.

    Raises:
        UserError: naming the first tensor that is missing, extra or of the wrong shape.
    """
    missing = [name for name in own if name not in given and name not in fresh]
    extra = [name for name in given if name not in own]
    wrong = [name for name in own if name in given and name not in fresh and own[name].shape != given[name].shape]
    if not (missing or extra or wrong):
        return
    first = (
        f"'{wrong[0]}' is {tuple(given[wrong[0]].shape)}, expected {tuple(own[wrong[0]].shape)}"
        if wrong
        else f"'{missing[0]}' is missing"
        if missing
        else f"'{extra[0]}' is not in this network"
    )
    raise UserError(
        f"{what} does not fit: {first} ({len(missing)} missing, {len(extra)} extra, {len(wrong)} of another shape); "
        "check that task, step and model are those it was trained with"
    )
