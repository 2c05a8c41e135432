#!/usr/bin/env python3
"""The published training command: see docs/paper.md."""

from barm.cli.common import guarded
from barm.cli.published import train_main

if __name__ == "__main__":
    guarded(train_main)
