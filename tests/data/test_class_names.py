"""classes.txt: what the lines mean is recognised, or asked for in one line; names never shift in silence."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from barm.data.sources import open_source
from barm.errors import UserError


def opened(tmp_path, content: bytes, highest: int = 2):
    """The names that a folder with this classes.txt has."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(2):
        Image.new("RGB", (20, 20)).save(tmp_path / f"images/{i}.png")
        Image.fromarray(np.full((20, 20), highest, np.uint8)).save(tmp_path / f"masks/{i}.png")
    (tmp_path / "classes.txt").write_bytes(content)
    return open_source("folder", tmp_path, "train").class_names


ACCEPTED = {
    "plain": b"cat\ndog\n",
    "background": b"background\ncat\ndog\n",
    "capitals": b"Background\ncat\ndog\n",
    "labelme": b"__ignore__\n_background_\ncat\ndog\n",
    "underscored": b"_background_\ncat\ndog\n",
    "unlabeled": b"unlabeled\ncat\ndog\n",
    "number behind": b"background: 0\ncat: 1\ndog: 2\n",
    "number behind, space": b"background 0\ncat 1\ndog 2\n",
    "number before, space": b"0 background\n1 cat\n2 dog\n",
    "number before": b"0: background\n1: cat\n2: dog\n",
    "from one": b"1 cat\n2 dog\n",
    "tabs": b"1\tcat\n2\tdog\n",
    "commas": b"1,cat\n2,dog\n",
    "any order": b"2: dog\n1: cat\n",
    "background without a number": b"background\n1 cat\n2 dog\n",
    "only background has a number": b"background: 0\ncat\ndog\n",
    "only background has a number before": b"0 background\ncat\ndog\n",
    "255 is ignored": b"0 background\n1 cat\n2 dog\n255 void\n",
    "byte order mark": b"\xef\xbb\xbfcat\ndog\n",
    "byte order mark and background": b"\xef\xbb\xbf_background_\ncat\ndog\n",
    "utf-16": "cat\ndog\n".encode("utf-16"),
    "utf-16 big": b"\xfe\xff" + "cat\ndog\n".encode("utf-16-be"),
    "windows": b"cat\r\ndog\r\n",
    "old mac": b"cat\rdog\r",
    "blanks and empty lines behind": b"cat \t\n dog\n\n  \n",
    "comments": b"# my classes\ncat\n#\ndog\n",
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_names_stand_where_they_belong(case, tmp_path):
    assert opened(tmp_path, ACCEPTED[case]) == ("background", "cat", "dog")


def test_names_that_end_in_numbers(tmp_path):
    assert opened(tmp_path, b"grade 1\ngrade 2\n") == ("background", "grade 1", "grade 2")


def test_an_accent_is_one_sign(tmp_path):
    assert opened(tmp_path, "cafe\u0301\ndog".encode()) == ("background", "caf\u00e9", "dog")


REFUSED = {
    "void": (b"void\ncat\n", r"classes.txt:1 is 'void', which may be the id 0 or the first class"),
    "labelme without background": (b"__ignore__\ncat\n", r"followed|follows by '_background_'"),
    "zero is a class": (b"0 road\n1 cat\n", r"gives the id 0 to 'road'.*0 is background"),
    "gap": (b"1 cat\n3 dog\n", r"no name for the id 2"),
    "twice the same id": (b"1 cat\n1 dog\n", r"classes.txt:2: 'dog' has the id 1"),
    "half numbered": (b"1 cat\n2 dog\nbird\n", r"classes.txt:3: 'bird' carries no id"),
    "heading": (b"id,name\n1,cat\n2,dog\n", r"classes.txt:1: 'id,name' carries no id.*heading"),
    "id or name": (b"cat 1\ndog 2\n", r"is the number in 'cat 1' an id"),
    "hole": (b"cat\n\ndog\n", r"classes.txt:2 is empty"),
    "comment or name": (b"#cat\ndog\n", r"classes.txt:1: '#cat' may be a name"),
    "comment behind": (b"cat # my pet\ndog\n", r"classes.txt:1"),
    "duplicate": (b"cat\ndog\ncat\n", r"classes.txt:3: 'cat' stands in line 1 too"),
    "background later": (b"cat\nbackground\n", r"classes.txt:2 is 'background', which is the id 0"),
    "background twice": (b"unlabeled\nbackground\ncat\n", r"classes.txt:2 is 'background'"),
    "colours": (b"background:0,0,0::\ncat:128,0,0::\n", r"expected one class name per line"),
    "json": (b'["cat", "dog"]', r"expected one class name per line"),
    "escape sequence": (b"cat\ndo\x1b[31mg\n", r"classes.txt:2 holds a tab or another control character"),
    "latin-1": ("chien\nélan\n".encode("latin-1"), r"not UTF-8 text .*line 2.*save it as UTF-8"),
    "no text": (b"\x89PNG\r\n\x1a\n\0\0", r"is not .*text"),
    "null bytes": (b"cat\0\ndog", r"null bytes"),
    "nothing": (b"\n", r"1 to 254 different class names, found 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_clear_is_asked(case, tmp_path):
    content, says = REFUSED[case]
    with pytest.raises(UserError, match=says) as error:
        opened(tmp_path, content)
    assert "\n" not in str(error.value)
