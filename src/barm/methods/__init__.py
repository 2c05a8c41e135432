"""The methods. Except for data layouts, `METHODS` is the only place that maps names to classes."""

from barm.methods.barm import BARMConfig
from barm.methods.base import MethodConfig
from barm.methods.dft import DFTConfig
from barm.methods.dkd import DKDConfig, DKDMConfig
from barm.methods.ewf import MiBEWFConfig, PLOPEWFConfig
from barm.methods.finetune import FineTuneConfig, JointConfig
from barm.methods.lwf import ILTConfig, LwFConfig
from barm.methods.mib import MiBConfig
from barm.methods.plop import PLOPConfig
from barm.methods.rcil import RCILConfig
from barm.methods.segacil import SegACILConfig
from barm.methods.ssul import SSULConfig, SSULMConfig
from barm.methods.star import STARConfig, STARMConfig

METHODS: dict[str, type[MethodConfig]] = {
    "barm": BARMConfig,
    "finetune": FineTuneConfig,
    "dft": DFTConfig,
    "joint": JointConfig,
    "lwf": LwFConfig,
    "ilt": ILTConfig,
    "mib": MiBConfig,
    "mib-ewf": MiBEWFConfig,
    "plop": PLOPConfig,
    "plop-ewf": PLOPEWFConfig,
    "rcil": RCILConfig,
    "dkd": DKDConfig,
    "dkd-m": DKDMConfig,
    "ssul": SSULConfig,
    "ssul-m": SSULMConfig,
    "star": STARConfig,
    "star-m": STARMConfig,
    "segacil": SegACILConfig,
}
