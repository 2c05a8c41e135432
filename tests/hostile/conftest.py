"""What `run.py` and test_hostile run: programs of their own, in which no test and no example is looked for."""

collect_ignore = ["cases.py", "material.py", "run.py", "worker.py"]
