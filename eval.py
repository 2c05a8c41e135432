#!/usr/bin/env python3
"""The published evaluation command: see docs/paper.md."""

from barm.cli.common import guarded
from barm.cli.published import eval_main

if __name__ == "__main__":
    guarded(eval_main)
