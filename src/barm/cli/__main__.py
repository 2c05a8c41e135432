"""``python -m barm.cli``: the form that torchrun and SLURM start."""

from barm.cli import main

main()
