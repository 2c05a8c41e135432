"""One of several processes that watch each other and need no torch; run by test_watch.

The others wait in the main thread, as in a collective, for what the last word of the command line names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from barm.engine.distributed import watch
from barm.errors import UserError

DEEDS = {
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "sigstop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "os_exit": lambda: os._exit(0),
    "sys_exit": lambda: sys.exit(0),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
}


def main(folder: str, deed: str, dying: str, waiting: str) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    note = Path(folder) / "share.json"

    def share(value):
        if rank == 0:
            note.with_suffix(".tmp").write_text(json.dumps(value))
            note.with_suffix(".tmp").rename(note)
        while not note.exists():
            time.sleep(0.01)
        return json.loads(note.read_text())

    keeper = watch.start(rank, world, one_machine=True, share=share)
    for _ in range(3):
        keeper.meet()
    if deed == "end":  # all leave in their own time
        time.sleep(0.3 * rank)
        return
    if deed == "long":  # the main process works much longer than the limit of silence, the others wait for its word
        if rank == 0:
            time.sleep(2 * keeper.limit)
            keeper.tell("", "done")
        else:
            assert keeper.hear() == ("", "done")
        keeper.meet()
        return
    if deed == "together":
        raise UserError("all have found the same")
    if deed == "suspend":  # a whole machine that sleeps and wakes
        time.sleep(2)
        keeper.meet()
        return
    if rank == int(dying):
        time.sleep(0.2)
        do(deed)
    keeper.enter()
    if waiting == "collective":
        time.sleep(300)
    elif waiting == "broken":  # as gloo tells it, a moment before the watch knows
        time.sleep(0.2)
        raise RuntimeError("Connection closed by peer")
    elif rank == 0:
        keeper.meet()
    else:
        keeper.hear()


def do(deed: str) -> None:
    if deed == "exception":
        raise ValueError("image 7 is broken")
    if deed == "user_error":
        raise UserError("no data on this machine")
    DEEDS[deed]()


if __name__ == "__main__":
    if sys.argv[2] in ("user_error", "together"):
        from barm.cli.common import guarded  # slow to import

        guarded(lambda: main(*sys.argv[1:]))
    else:
        main(*sys.argv[1:])
