"""Build a backbone, any timm model, with its weights.

A network that can be dilated gives its last map at output stride 8 or 16. The others keep their own strides
(`barm.models.undilated`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn

from barm.errors import UserError, nearest
from barm.models import mobilenet
from barm.models.download import HUB, cached_source, check_reachable
from barm.models.efficientnet import named_as_in_timm
from barm.models.neck import LEAK
from barm.models.undilated import Undilated, build_undilated, no_low_level
from barm.reading import Unfit, read_pickled, read_safetensors, state_dict_of
from barm.words import count

Side = Literal["before", "after"]  # of an activation
BACKBONE_BN_MOMENTUM = 0.01  # spec/barm.md section 2
LOW_LEVEL_STRIDE = 4  # spec/deeplab.md section 3
USUAL_LOW_LEVEL = 1  # position of the features at that stride in most networks of timm: strides 2, 4, 8, 16, 32


def create_backbone(
    name: str,
    output_stride: int,
    pretrained: bool = False,
    weights: Path | None = None,
    *,
    low_level: bool = False,
    leaky: bool = False,
) -> nn.Module:
    """Build a network that returns a list with its last feature map, ``(N, 3, H, W)`` -> ``[(N, D, h, w)]``.

    Tensor names are timm's own; for ``resnet101.tv_in1k`` they are those of the official checkpoints.
    Number of channels D: `num_channels`.

    Args:
        name: a timm model name, e.g. ``resnet101.tv_in1k``, or ``deeplab_mobilenetv2``.
        output_stride: 8 or 16.
        pretrained: load timm's ImageNet weights (from timm's cache or the network).
        weights: a local ``.pth`` or ``.safetensors`` state dict of the same network, instead.
        low_level: the list starts with the features at stride 4.
        leaky: leaky ReLU in place of ReLU (spec/mib.md section 7).

    Raises:
        UserError: for an unknown name, a network without features at these strides, or weights that cannot be had or do
            not fit.
    """
    body = _create(name, output_stride, pretrained and weights is None, low_level, leaky)
    if weights is not None:
        _load_local(body, weights, name)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BACKBONE_BN_MOMENTUM
    return body


@lru_cache(maxsize=64)
def has_low_level(name: str, output_stride: int) -> bool:
    """Whether a network has features at stride 4, which `create_backbone` gives as `low_level`. Nothing is fetched."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            create_backbone(name, output_stride, low_level=True)
    except Exception:  # whatever a constructor raises; who builds the network says what is wrong
        return False
    return True


class Revealed(nn.Module):
    """An activation that keeps its input or its result for a later reader.

    Args:
        slope: of its negative side: 0 is ReLU.
        side: what is kept: what it has ``before`` or ``after`` it.
    """

    given: Tensor | None = None

    def __init__(self, slope: float, side: Side = "before") -> None:
        super().__init__()
        self.slope, self.side = slope, side

    def forward(self, x: Tensor) -> Tensor:
        """``max(x, slope x)``; one of both is kept until `take` is called."""
        result = nn.functional.leaky_relu(x, self.slope) if self.slope else torch.relu(x)
        self.given = x if self.side == "before" else result
        return result

    def take(self) -> Tensor:
        """Return what was kept of the last call, once."""
        given, self.given = self.given, None
        if given is None:
            raise RuntimeError("nothing to take: the backbone has not run")
        return given


def reveal_stages(backbone: nn.Module, side: Side = "before") -> list[Revealed]:
    """Let the last activation of every stage keep its input or result, from shallow to deep. No tensor is renamed.

    Source: spec/plop.md section 5.1 (features before the final activation of the stage), spec/rcil.md Q2 (after it).

    Raises:
        UserError: for a backbone that is no residual network of timm.
    """
    stages = [cast(nn.Sequential, getattr(backbone, f"layer{i}", None)) for i in range(1, 5)]
    if not all(stages):
        raise UserError(f"the features {side} a stage's last activation exist in ResNets only: choose such a backbone")
    revealed = []
    for stage in stages:
        block = stage[-1]
        name = "act3" if hasattr(block, "act3") else "act2"
        revealed.append(Revealed(getattr(getattr(block, name), "negative_slope", 0.0), side))
        setattr(block, name, revealed[-1])
    return revealed


def drop_stem_activation(backbone: nn.Module) -> None:
    """Leave out the activation between a ResNet's first batch norm and its pooling, in place (spec/rcil.md Q1).

    Raises:
        UserError: for a backbone that has none there.
    """
    if not hasattr(backbone, "act1") or not hasattr(backbone, "layer1"):
        raise UserError("model.stem_activation = false is for ResNets: leave it out, or choose one such as resnet50")
    backbone.act1 = nn.Identity()


def num_channels(backbone: nn.Module) -> list[int]:
    """Channels of the feature maps that the backbone returns."""
    if isinstance(backbone, Undilated):
        return list(backbone.form.channels)
    return list(backbone.feature_info.channels())  # type: ignore[union-attr, operator]


def _create(name: str, output_stride: int, pretrained: bool, low_level: bool, leaky: bool) -> nn.Module:
    options: dict[str, Any] = {"act_layer": partial(nn.LeakyReLU, LEAK, inplace=True)} if leaky else {}

    def built(*indices: int, pretrained: bool) -> nn.Module:
        if name == mobilenet.NAME:
            return mobilenet.MobileNetV2(output_stride, pretrained=pretrained, low_level=low_level)
        source, more = cached_source(name, pretrained)
        form: dict[str, Any] = {"features_only": True, "output_stride": output_stride, "out_indices": indices}
        body: nn.Module = timm.create_model(source, pretrained=pretrained, **form, **options, **more)
        return body

    def undilated() -> nn.Module:
        if leaky:
            raise UserError(
                f"backbone '{name}' cannot be dilated, and model.activation = 'leaky_relu' is for those that can: "
                "leave it out, or choose one such as resnet50"
            )
        source, more = cached_source(name, pretrained)
        low = LOW_LEVEL_STRIDE if low_level else None
        return build_undilated(name, source, output_stride, low, {"pretrained": pretrained, **more})

    try:
        if pretrained:
            check_reachable(name)
        try:
            body = built(*((USUAL_LOW_LEVEL, -1) if low_level else (-1,)), pretrained=pretrained)
            if cast(FeatureInfo, body.feature_info).reduction()[-1] != output_stride:
                return undilated()
        except Exception:
            if not _exists(name) or _dilates(lambda: built(-1, pretrained=False), output_stride):
                raise
            return undilated()
        position = _low_level(body, name) if low_level and name != mobilenet.NAME else USUAL_LOW_LEVEL
        return body if position == USUAL_LOW_LEVEL else built(position, -1, pretrained=pretrained)
    except UserError:
        raise
    except Exception as error:  # timm raises RuntimeError, hub errors and OSError alike; all mean "not to be had"
        if not _exists(name):
            base = name.split(".")[0]
            raise UserError(
                f"unknown backbone '{name}': expected a timm model name{nearest(base, timm.list_models())}"
            ) from error
        raise UserError(
            f"the ImageNet weights of '{name}' could not be had ({_first_line(error)}); connect to the network once, "
            "give a local file with --set model.weights=FILE, or train from scratch with --set model.pretrained=false"
        ) from error


def _exists(name: str) -> bool:
    """Whether the name is one of timm's, or its configuration is in the cache of the hub."""
    if name.startswith(HUB):
        return cached_source(name, False)[0] != name
    return name == mobilenet.NAME or timm.is_model(name.split(".")[0])


def _low_level(body: nn.Module, name: str) -> int:
    """Position of the low-level features among all feature maps: the deepest at stride 4."""
    info = cast(FeatureInfo, body.feature_info)
    strides: list[int] = info.reduction(list(range(len(info.info))))
    if LOW_LEVEL_STRIDE not in strides:
        raise no_low_level(name, LOW_LEVEL_STRIDE, strides)
    return len(strides) - 1 - strides[::-1].index(LOW_LEVEL_STRIDE)


def _dilates(build: Callable[[], nn.Module], output_stride: int) -> bool:
    """Whether a network can be built with this output stride, and keeps it. Takes no memory, and no random number."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return cast(FeatureInfo, build().feature_info).reduction()[-1] == output_stride  # type: ignore[no-any-return]
    except Exception:  # whatever a constructor raises
        return False


def _load_local(body: nn.Module, path: Path, name: str) -> None:
    """Load a classification or feature state dict without its classifier; everything else must fit."""
    if not path.is_file():
        raise UserError(f"no weights at {path}: give an existing .pth or .safetensors file in model.weights")
    try:
        content = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    except Unfit as error:
        raise UserError(f"{path} is not a readable state dict ({error.what}); expected .pth or .safetensors") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    own = body.state_dict()
    timms = named_as_in_timm(state_dict_of(content, path), own)
    given = {_bare(mobilenet.own_name(k)): v for k, v in timms.items()}
    state = {k: given[_bare(k)] for k in own if _bare(k) in given}
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in state if state[k].shape != own[k].shape]
    if missing or wrong:
        raise UserError(
            f"{path} does not fit backbone '{name}': {count(len(missing), 'tensors')} missing, {len(wrong)} of "
            f"another shape, first: {(missing + wrong)[0]}; give the weights of the same timm network"
        )
    body.load_state_dict({k: state.get(k, own[k]) for k in own})


def _bare(name: str) -> str:
    """A tensor's name without what the ways to reach a network's maps change in it.

    >>> _bare("body.stages_0.norm.weight") == _bare("stages.0.norm.weight")
    True
    """
    return name.removeprefix("body.").removeprefix("model.").replace(".", "_")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
