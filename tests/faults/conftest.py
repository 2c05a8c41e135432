"""The script and its parts are started as a program; as modules of the tests they would not find each other."""

collect_ignore = ["cells.py", "injector.py", "kinds.py", "material.py", "phases.py", "run.py"]
