"""What a file or folder of weights is, and what barm can do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal[
    "run",
    "barm-file",
    "barm-graph",
    "official-barm",
    "official-ssul",
    "official-dkd",
    "barm-export",
    "segacil",
    "mib-plop",
    "rcil",
    "vainf",
    "torchvision",
    "smp",
    "smp-state",
    "transformers",
    "transformers-state",
    "timm",
    "lightning",
    "mmsegmentation",
    "nnunet",
    "ultralytics",
    "detectron2",
    "fastai",
    "fairseq",
    "network",
    "state",
    "module",
    "optimizer",
    "pickle",
    "torchscript",
    "exported-program",
    "onnx",
    "tensorflow",
    "archive",
    "arrays",
    "image",
    "text",
    "page",
    "pointer",
    "data",
    "folder",
    "damaged",
    "empty",
    "missing",
    "unreadable",
    "unknown",
]
Use = Literal["open", "import", "adopt", "backbone", "none"]
FAMILIES = ("smp", "transformers", "torchvision")  # whose networks are taken over
OWN = "barm trains its own with `barm train --recipe folder/barm --data DATA`"
ADOPTED = "`barm.adopt` takes it over, whatever its class (docs/models.md)"
AGAIN = "fetch or copy it again"


@dataclass(frozen=True)
class Kind:
    """What a file or folder is.

    Attributes:
        family: whose file it is.
        name: what it is, in a noun phrase that follows "is".
        advice: what barm can do with it, one sentence with the command.
        use: `open` by every command that takes a run, `import` with ``barm weights import``, `adopt` as a network of
            another library, `backbone` with ``--set model.weights``, or `none`.
        architecture: of the network, in the words of its library, such as ``fcn_resnet50``.
        outputs: channels of the classifier; none if not known.
        groups: classes per step without background, of a network that grew.
        step: index of the step that it was saved after.
        model: published name of the network, such as ``deeplabv3bga_resnet101``.
        method: of barm, with which it is imported.
        settings: ``table.key=value`` of the configuration that the tensors decide.
    """

    family: Family
    name: str
    advice: str
    use: Use = "none"
    architecture: str = ""
    outputs: int | None = None
    groups: tuple[int, ...] = ()
    step: int | None = None
    model: str = ""
    method: str = ""
    settings: tuple[str, ...] = ()

    def line(self, path: object) -> str:
        """One line about the file: what it is, and what to do with it.

        >>> Kind("empty", "an empty file", "fetch or copy it again").line("model.pth")
        'model.pth is an empty file: fetch or copy it again'
        """
        return f"{path} is {self.name}: {self.advice}"


class State:
    """Names and shapes of a state dict.

    Args:
        tensors: shapes by name.
    """

    def __init__(self, tensors: Mapping[str, tuple[int, ...]]) -> None:
        self.tensors = tensors

    def has(self, *names: str) -> bool:
        """Whether there are tensors of all these names; one that ends in a dot or a star is the beginning of names."""
        return all(self._has(name) for name in names)

    def any(self, *names: str) -> bool:
        """Whether there is a tensor of one of these names, likewise."""
        return any(self._has(name) for name in names)

    def outputs(self, name: str) -> int | None:
        """First dimension of a tensor, the channels that a layer gives; none if there is no such tensor."""
        shape = self.tensors.get(name)
        return shape[0] if shape else None

    def blocks(self, prefix: str) -> int:
        """Number of different names that follow a prefix, up to the next dot."""
        return len({n[len(prefix) :].split(".")[0] for n in self.tensors if n.startswith(prefix)})

    def resnet(self, prefix: str = "") -> str:
        """Name of the ResNet below a prefix, such as ``resnet50``; empty if there is none."""
        stages = tuple(self.blocks(f"{prefix}layer{i}.") for i in range(1, 5))
        deep = self.has(f"{prefix}layer1.0.conv3.weight")
        name = RESNETS.get((stages, deep), "")
        if not name or not self.has(f"{prefix}conv1.weight"):
            return ""
        middle = self.tensors.get(f"{prefix}layer1.0.conv2.weight", ())
        if not deep or (len(middle) == 4 and middle[0] == middle[1] == 64):
            return name
        if len(middle) == 4 and middle[0] == middle[1]:
            return f"wide_{name}_{middle[0] // 64}"
        return {"resnet50": "resnext50_32x4d"}.get(name, "resnext101_32x8d") if len(middle) == 4 else name

    def without(self, prefix: str) -> State:
        """The tensors below a prefix, under shorter names."""
        return State({n.removeprefix(prefix): s for n, s in self.tensors.items() if n.startswith(prefix)})

    def _has(self, name: str) -> bool:
        if name.endswith((".", "*")):
            start = name.removesuffix("*")
            return any(n.startswith(start) for n in self.tensors)
        return name in self.tensors


RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
