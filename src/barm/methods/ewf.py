"""EWF on its published hosts, MiB and PLOP; `fusion` switches it on for any other method. Source: spec/ewf.md."""

from __future__ import annotations

from typing import Literal

from barm.methods.fusion import FusionConfig
from barm.methods.mib import MiBConfig
from barm.methods.plop import PLOPConfig


class MiBEWFConfig(MiBConfig):
    """MiB + EWF (CVPR 2023): after every step the trained weights are averaged with those of the previous step."""

    name: Literal["mib-ewf"] = "mib-ewf"  # type: ignore[assignment]
    fusion: FusionConfig | None = FusionConfig()


class PLOPEWFConfig(PLOPConfig):
    """PLOP + EWF (CVPR 2023): after every step the trained weights are averaged with those of the previous step."""

    name: Literal["plop-ewf"] = "plop-ewf"  # type: ignore[assignment]
    fusion: FusionConfig | None = FusionConfig()
