"""The script and its parts are started as a program; as modules of the tests they would not find each other."""

collect_ignore = ["cases.py", "material.py", "run.py", "worker.py"]
