"""``barm`` in processes that are killed in the pass after a step's training; run by test_killed_pass.

Everything is imported once, then every command forks its process: starting is what takes the time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

import barm.api  # noqa: F401
from barm.cli import main
from barm.engine import completion


def die_in(step: int) -> None:
    """Let this process kill itself when the pass of a step asks for its second batch; nothing can catch that."""
    whole = completion.gather

    def gather(method, network, batches, *rest):
        return whole(method, network, deadly(batches) if method.step.index == step else batches, *rest)

    completion.gather = gather


def deadly(batches):
    yield next(batches)
    os.kill(os.getpid(), signal.SIGKILL)


def run_all(file: Path) -> None:
    """Run the commands of a file one after the other, and replace each by its exit status in the file."""
    torch.set_num_threads(1)
    statuses = []
    for dying, words in json.loads(file.read_text()):
        pid = os.fork()
        if not pid:
            if dying is not None:
                die_in(dying)
            sys.argv = ["barm", *words]
            return main()
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    file.write_text(json.dumps(statuses))


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
