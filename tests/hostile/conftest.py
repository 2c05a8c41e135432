"""The script and its parts are started as a program; as modules of the tests they would not find each other."""

collect_ignore = [
    *("campaign.py", "cases.py", "fuzz_mutations.py", "fuzz_targets.py", "material.py", "run.py", "worker.py"),
]
