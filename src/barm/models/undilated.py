"""Networks of timm that cannot be dilated: pyramids of feature maps, and plain vision transformers, at any image size.

What a network can do is found by showing images to a skeleton of it on torch's meta device, which costs no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.models._features import FeatureGetterNet, FeatureInfo
from torch import Tensor, nn
from torch.nn import functional as F

from barm.errors import UserError
from barm.models.neck import is_exporting
from barm.models.tracing import trace_simply

Size = tuple[int, int]
ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})  # as timm names it
PROBES = ((1, 2), (2, 3), (1, 5))  # height and width of the images that are tried, in units of the size rule
LACK = 2  # pixels by which a map may be smaller or larger than its stride says
OTHERS = "choose another, such as convnext_tiny, swin_tiny_patch4_window7_224 or vit_small_patch14_dinov2"


class SizeRule(NamedTuple):
    """Sizes of images that a network can take.

    Attributes:
        divisor: every side is a multiple of it.
        least: the smallest side. With less than two pixels a map's side would be a constant of a traced graph.
        fixed: the one height and width that it takes, if it takes one only.
    """

    divisor: int
    least: int
    fixed: Size | None = None

    def fit(self, image: Tensor) -> Tensor:
        """Resize ``(N, 3, H, W)`` bilinearly to the nearest size of the rule."""
        size = self.fixed or (self._nearest(image.shape[2]), self._nearest(image.shape[3]))
        if not is_exporting() and size == tuple(image.shape[2:]):
            return image
        return F.interpolate(image, size, mode="bilinear", align_corners=False)

    def _nearest(self, side: int) -> int:
        """The nearest side; an int or its symbol.

        >>> rule = SizeRule(14, 28)
        >>> rule._nearest(35), rule._nearest(34), rule._nearest(5)
        (42, 28, 28)
        """
        multiples, least = (side + self.divisor // 2) // self.divisor, self.least // self.divisor
        return self.divisor * cast(int, torch.sym_max(multiples, least))

    def __str__(self) -> str:
        """The rule in words.

        >>> print(SizeRule(14, 28), SizeRule(224, 224, (224, 224)), sep=", ")
        multiple of 14, always 224 x 224
        """
        return f"always {self.fixed[0]} x {self.fixed[1]}" if self.fixed else f"multiple of {self.divisor}"


class Form(NamedTuple):
    """The feature maps that a network gives, and the images that it takes.

    Attributes:
        tokens: whether all its maps have one stride, as those of a plain vision transformer.
        options: for timm's constructor.
        positions: of the maps among all that timm offers.
        strides: of the maps, from fine to coarse.
        channels: of the maps.
        last: whether a map's channels are its last dimension.
        rule: sizes of images.
    """

    tokens: bool
    options: dict[str, Any]
    positions: tuple[int, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    last: bool
    rule: SizeRule


class Undilated(nn.Module):
    """A network of timm with feature maps at its own strides, from an image of any size.

    The image is resized to the nearest size that the network takes. Tensor names are timm's behind ``body.``.

    Args:
        body: returns a list of feature maps.
        form: of these maps.
    """

    def __init__(self, body: nn.Module, form: Form) -> None:
        super().__init__()
        self.body = body
        self.form = form

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised RGB ``(N, 3, H, W)`` -> feature maps ``(N, D_i, h_i, w_i)``, the last the deepest."""
        if is_exporting():
            trace_simply(self.body)
        maps = self.body(self.form.rule.fit(image))
        return [x.permute(0, 3, 1, 2) if self.form.last else x for x in maps]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Convert tensors, and forget those that a network computed from them in evaluation."""
        for module in self.modules():
            cache = getattr(module, "attention_bias_cache", None)
            if cache:
                cache.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def build_undilated(
    name: str,
    source: str,
    output_stride: int,
    low_level: int | None,
    more: Mapping[str, Any],
) -> Undilated:
    """Build a network with the maps that a neck at this output stride can use.

    A plain vision transformer gives one map at the stride of its patches, whatever the output stride.

    Args:
        name: of the network, for messages.
        source: its name for timm.
        output_stride: 8 or 16; finer maps are left out.
        low_level: stride of a further, finer map.
        more: options for timm, about its weights.

    Raises:
        UserError: for a network without such maps.
    """
    form = find_form(name, source, output_stride, low_level)
    return Undilated(_body(source, form.tokens, form.positions, {**form.options, **more}), form)


def _body(source: str, tokens: bool, positions: Sequence[int], options: Mapping[str, Any]) -> nn.Module:
    """The module that returns the maps. Tokens are those behind the last normalisation, without a classifier."""
    if not tokens:
        body: nn.Module = timm.create_model(source, features_only=True, out_indices=tuple(positions), **options)
        return body
    return FeatureGetterNet(
        timm.create_model(source, num_classes=0, **options), out_indices=tuple(positions), norm=True
    )


@lru_cache(maxsize=64)
def find_form(name: str, source: str, output_stride: int, low_level: int | None) -> Form:
    """Find out which maps a network gives and which images it takes. Arguments as for `build_undilated`."""
    best: Form | None = None
    problem: Exception | None = None
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        for options in ANY_SIZE:
            try:
                form = _form(name, source, output_stride, low_level, options)
            except UserError:
                raise
            except Exception as error:  # whatever a network raises at an option or a size that it does not know
                problem = error
                continue
            best = form if best is None or form.rule.fixed is None else best
            if form.rule.fixed is None:
                break
    if best is None:
        words = (str(problem).strip().splitlines() or [type(problem).__name__])[0][:160]
        raise UserError(f"backbone '{name}' gives no feature maps ({words}): {OTHERS}") from problem
    return best


def _form(name: str, source: str, output_stride: int, low_level: int | None, options: dict[str, Any]) -> Form:
    """The form of a network with these options; raises what the network raises. For torch's meta device."""
    skeleton = timm.create_model(source, features_only=True, **options)
    info = cast(FeatureInfo, skeleton.feature_info)
    strides: list[int] = info.reduction(list(range(len(info.info))))
    if low_level is not None and low_level not in strides:
        raise no_low_level(name, low_level, strides)
    tokens, positions = len(set(strides)) == 1, _positions(strides, output_stride, low_level)
    own = tuple(strides[i] for i in positions)
    body = _body(source, tokens, positions, options).eval()
    rule, maps = _size_rule(body, own, _own_size(body))
    fmt = getattr(body, "output_fmt", "NCHW")
    last = str(getattr(fmt, "value", fmt)) == "NHWC"
    return Form(tokens, options, positions, own, tuple(x.shape[-1 if last else 1] for x in maps), last, rule)


def _positions(strides: Sequence[int], output_stride: int, low_level: int | None) -> tuple[int, ...]:
    """The last map of every stride from the output stride on, or the last of all, with the low level before them."""
    at = {stride: i for i, stride in enumerate(strides)}
    wanted = [s for s in sorted(at) if s >= output_stride or s == low_level]
    if len(at) == 1 or not any(s != low_level for s in wanted):
        wanted = [*(s for s in wanted if len(at) > 1), max(at)]
    return tuple(sorted(at[s] for s in wanted))


def _own_size(body: nn.Module) -> Size | None:
    """Size of the images that timm's configuration of the network names."""
    inner = body.model if isinstance(body, FeatureGetterNet) else body
    given = getattr(inner, "pretrained_cfg", {}).get("input_size")
    return (given[-2], given[-1]) if given else None


def _size_rule(body: nn.Module, strides: Sequence[int], own: Size | None) -> tuple[SizeRule, list[Tensor]]:
    """The least restrictive rule under which the network gives maps of the right sizes, and one image's maps."""
    step = max(strides)
    rules = [(SizeRule(step, 2 * step), [(2 * a * step, b * step) for a, b in PROBES])]
    if own is not None and own[0] == own[1]:
        rules.append((SizeRule(own[0], own[0]), [(a * own[0], b * own[0]) for a, b in PROBES]))
    if own is not None:
        rules.append((SizeRule(own[0], own[0], own), [own]))
    problem: Exception | None = None
    for rule, sizes in rules:
        try:
            for size in sizes:
                maps = _maps(body, size, strides)
            return rule, maps
        except Exception as error:  # whatever a network raises at a size that it does not take
            problem = error
    raise cast(Exception, problem)


def _maps(body: nn.Module, size: Size, strides: Sequence[int]) -> list[Tensor]:
    """Maps of an image without values.

    Raises:
        ValueError: if their sizes are not those of their strides.
    """
    with torch.no_grad():
        maps: list[Tensor] = body(torch.empty(1, 3, *size, device="meta"))
    for x, stride in zip(maps, strides, strict=True):
        if not any(_near(x.shape[i : i + 2], size, stride) for i in (1, 2)):
            raise ValueError(f"a map of {tuple(x.shape)} at stride {stride} from an image of {size[0]} x {size[1]}")
    return maps


def _near(found: Sequence[int], size: Size, stride: int) -> bool:
    """Whether a map's sides are those of an image at this stride, but for what a lack of padding takes away."""
    return all(abs(side - whole / stride) <= LACK for side, whole in zip(found, size, strict=True))


def no_low_level(name: str, stride: int, strides: Sequence[int]) -> UserError:
    """The error of a network without a map that `v3plus` needs, which has maps at `strides`."""
    found = ", ".join(map(str, sorted(set(strides))))
    return UserError(
        f"backbone '{name}' has no features at stride {stride}, only at {found}, and decoder = 'v3plus' "
        "needs them: choose decoder = 'v3', or another backbone"
    )
