"""A stand-in for a SLURM cluster: ``slurm_stand_in.py sbatch|srun|sacct|squeue|scancel|scontrol ...``.

The scripts really run, each under a process of its own, which waits for what the job depends on. The folder $CLUSTER
has a file per job. Signals reach the command that srun starts, as SLURM sends them to a job's steps. While there is a
file `down`, nothing answers; a file `limit` holds how many jobs may be queued.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ.get("CLUSTER", "."))
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def read(number):
    """A job."""
    return json.loads((HERE / f"{number}.json").read_text())


def write(number, **changes):
    """Change a job's record."""
    path = HERE / f"{number}.json"
    record = {**(read(number) if path.exists() else {}), **changes}
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(record))
    beside.replace(path)


def sbatch(script):
    """Take a job in; its number is printed."""
    text = Path(script).read_text()
    options = {k: v.strip("'\"") for k, v in re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE)}
    known = [json.loads(path.read_text())["state"] for path in HERE.glob("*.json")]
    if (HERE / "limit").exists() and sum(s not in ENDED for s in known) >= int((HERE / "limit").read_text()):
        sys.exit("sbatch: error: QOSMaxSubmitJobPerUserLimit")
    if options.get("partition") == "absent":
        sys.exit("sbatch: error: invalid partition specified: absent")
    number = 1
    while True:
        try:
            (HERE / f"{number}.taken").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    write(number, state="PENDING", options=options, script=script, ran=0)
    subprocess.Popen(
        [sys.executable, "-S", __file__, "work", str(number)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    print(f"Submitted batch job {number}")


def is_met(condition):
    """Whether a dependency is met; None if it never will be."""
    kind, other = condition.split(":")
    state = read(other)["state"]
    if state not in ENDED:
        return False
    return True if kind == "afterany" or state == "COMPLETED" else None


def work(number):
    """Run a job, again after every requeue."""
    options = read(number)["options"]
    conditions = [c for c in options.get("dependency", "").split(",") if c]
    while read(number)["state"] == "PENDING":
        met = [is_met(condition) for condition in conditions]
        if None in met:
            write(number, state="CANCELLED")
        elif all(met):
            break
        time.sleep(0.05)
    while read(number)["state"] == "PENDING":
        env = {
            **os.environ,
            "SLURM_JOB_ID": number,
            "SLURM_NTASKS": "1",
            "SLURM_JOB_NUM_NODES": "1",
            "SLURM_PROCID": "0",
        }
        env |= {"SLURM_JOB_NAME": options["job-name"], "SLURM_JOB_NODELIST": "node1", "SLURM_LOCALID": "0"}
        env |= {"SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1"}
        write(number, state="RUNNING", ran=read(number)["ran"] + 1)
        with open(options["error"].replace("%j", number), "a") as log:
            status = subprocess.run(["bash", read(number)["script"]], env=env, stdout=log, stderr=log).returncode
        state = read(number)["state"]
        if state == "RUNNING":
            write(number, state="FAILED" if status else "COMPLETED")
        elif state == "REQUEUED":
            time.sleep(0.2)
            write(number, state="PENDING")


def srun(*words):
    """Run the command behind the options, and say which process it is."""
    rest = list(words)
    files = {}
    while rest[0].startswith("-"):
        name = rest.pop(0)
        if name in ("--output", "--error"):
            files[name] = rest.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
    with open(files["--output"], "a") as out, open(files["--error"], "a") as error:
        process = subprocess.Popen(rest, stdout=out, stderr=error)
        write(os.environ["SLURM_JOB_ID"], pid=process.pid, srun=words[: -len(rest)])
        sys.exit(process.wait() and 1)


def sacct(*words):
    """A line for every job that is asked for."""
    if os.environ.get("NO_ACCOUNTING"):
        sys.exit("Slurm accounting storage is disabled")
    assert words[:4] == ("--noheader", "--parsable2", "--allocations", "--format=JobID,State")
    for number in words[4].removeprefix("--jobs=").split(","):
        if (HERE / f"{number}.json").exists():
            print(f"{number}|{read(number)['state']}{' by 1000' if read(number)['state'] == 'CANCELLED' else ''}")


def squeue(*words):
    """The jobs that have not ended."""
    assert "--format=%A %T %r" in words
    for path in HERE.glob("*.json"):
        state = read(path.stem)["state"]
        if state not in ENDED:
            print(path.stem, state, "Dependency" if state == "PENDING" else "None")


def scancel(*words):
    """End jobs, or send a signal to their commands: ``scancel --signal USR2 3``."""
    signum = signal.SIGTERM
    numbers = [word for word in words if word.isdigit()]
    if "--signal" in words:
        signum = getattr(signal, f"SIG{words[words.index('--signal') + 1]}")
    for number in numbers:
        record = read(number)
        if "--signal" not in words and record["state"] not in ENDED:
            write(number, state="CANCELLED")
        if record["state"] == "RUNNING" and "pid" in record:
            os.kill(record["pid"], signum)


def scontrol(verb, number):
    """Queue a job again."""
    assert verb == "requeue"
    write(number, state="REQUEUED")


if __name__ == "__main__":
    if (HERE / "down").exists() and sys.argv[1] in ("sbatch", "sacct", "squeue", "scancel"):
        sys.exit(f"{sys.argv[1]}: error: Unable to contact slurm controller (connect failure)")
    globals()[sys.argv[1]](*sys.argv[2:])
