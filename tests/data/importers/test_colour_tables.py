"""Tables of colours: all forms give the same, and damaged ones are refused in one line."""

from __future__ import annotations

import pytest

from barm.data.importers.colour_tables import read_colour_table
from barm.errors import UserError

FORMS = {
    "class_dict.csv": "name, r, g, b\nbackground, 0, 0, 0\ncat, 128, 64, 128\nhot dog, 0, 0, 255\n",
    "order.csv": "b;g;id;r;Class\n0;0;0;0;background\n128;64;1;128;cat\n255;0;2;0;hot dog\n",
    "hex.csv": "background,#000000\ncat,#804080\nhot dog,#0000FF\n",
    "quoted.csv": 'name,color\nbackground,"0,0,0"\ncat,#804080\n"hot dog","(0, 0, 255)"\n',
    "triples.txt": "background,0,0,0\ncat,128,64,128\nhot dog,0,0,255\n",
    "label_colors.txt": "0 0 0\t\tbackground\n128 64 128\t\tcat\n0 0 255\t\thot dog\n",
    "labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,64,128:a,b:\nhot dog:0,0,255::\n",
    "names.csv": "background,black\ncat,#804080\nhot dog,b\n",
    "object.json": '{"background": [0, 0, 0], "cat": "#804080", "hot dog": "blue"}',
    "list.json": '[{"name": "background", "color": "#000000"}, {"name": "cat", "color": [128, 64, 128]}, '
    '{"name": "hot dog", "color": "#0000ff"}]',
    "classes.toml": '[colours]\n"#000000" = "background"\n"128, 64, 128" = "cat"\n"#0000ff" = "hot dog"\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name, tmp_path):
    (tmp_path / name).write_text(FORMS[name], "utf-8")
    values = read_colour_table(tmp_path / name)
    assert values.names == ("cat", "hot dog")
    assert dict(values.ids) == {0x000000: 0, 0x804080: 1, 0x0000FF: 2}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "name,r,g,b\ncat,1,2\n", "a.csv:2: expected 4 columns"),
        ("a.csv", "name,r,g,b\ncat,1,2,300\n", "a.csv:2: expected a colour .* found '1,2,300'"),
        ("a.csv", "name,r,g,b\ncat,1,2,3\ndog,1,2,3\n", "a.csv:3: 'cat' and 'dog' have one colour, #010203"),
        ("a.csv", "name,r,g,b\nbackground,0,0,0\n", "a.csv: expected at least one class besides background"),
        ("a.csv", "name,r,g,b\n,1,2,3\n", "a.csv: a class has no name"),
        ("a.csv", "", "expected lines name,#rrggbb, found none"),
        ("a.txt", "cat,#010203\ndog\n", "a.txt:2: expected a name and a colour as in the first line"),
        ("a.txt", "cat\ndog\n", "a.txt:1: expected name,#rrggbb, found 'cat'"),
        ("a.txt", "cat,grey of dawn\n", "a.txt:1: expected a colour such as"),
        ("a.json", "[1, 2]", "a.json: expected"),
        ("a.json", '{"cat": null}', "expected a colour such as .* for 'cat', found 'None'"),
        ("a.json", '{"cat": "0.5"}', "for 'cat', found '0.5'"),
        ("a.json", "[" * 100000, "a.json"),
        ("a.toml", '[values]\n1 = "cat"\n', r"expected a table \[colours\]"),
    ],
)
def test_damaged_tables(name, text, message, tmp_path):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_colour_table(tmp_path / name)
    assert "\n" not in str(error.value)


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match=r"no file .*none.csv"):
        read_colour_table(tmp_path / "none.csv")
