"""Names of classes on the command line."""

from __future__ import annotations

import pytest

from barm.cli.common import groups_in, names_in
from barm.errors import UserError


def test_names_of_classes_on_the_command_line(tmp_path):
    """Commas, dashes, spaces and accents in names: as TOML, or in a file."""
    assert names_in("cat, hot dog", "--group") == ["cat", "hot dog"]
    assert names_in('["hot dog, warm", "-x", "@y"]', "--group") == ["hot dog, warm", "-x", "@y"]
    (tmp_path / "step.txt").write_text("\ufeffhot dog, warm\r\n# a comment\r\n-x\r\ncafe\u0301\r\n", "utf-8")
    assert names_in(f"@{tmp_path}/step.txt", "--group") == ["hot dog, warm", "-x", "caf\u00e9"]
    (tmp_path / "all.toml").write_text('groups = [["a, b"], ["c"]]')
    assert groups_in(["x,y", f"@{tmp_path}/all.toml"]) == [["x", "y"], ["a, b"], ["c"]]
    for text, says in (
        ('["a"', r"--group is no TOML array"),
        ("[1]", r"--group expects a TOML array of names"),
        (f"@{tmp_path}/none.txt", r"no file"),
    ):
        with pytest.raises(UserError, match=says):
            names_in(text, "--group")
    (tmp_path / "bad.toml").write_text("groups = 3")
    with pytest.raises(UserError, match=r"expected groups = "):
        groups_in([f"@{tmp_path}/bad.toml"])
