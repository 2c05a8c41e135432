"""Runs one command of barm after the other in one process, as `barm` would, and says how each ended."""

from __future__ import annotations

import json
import os
import sys
import traceback

from barm.cli import main


def call(words: list[str]) -> int:
    """The exit status of a command; a traceback is printed as the interpreter would."""
    sys.argv = ["barm", *words]
    try:
        main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    """Read requests from stdin; answers go where stdout was, what commands print into files of the request."""
    answers = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        os.chdir(request["folder"])
        os.environ["BARM_CACHE"] = request["cache"]
        for number, name in ((1, "out"), (2, "err")):
            file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
        status = call(request["words"])
        sys.stdout.flush()
        sys.stderr.flush()
        for number in (1, 2):
            os.dup2(null, number)
        print(json.dumps(status), file=answers, flush=True)


if __name__ == "__main__":
    serve()
