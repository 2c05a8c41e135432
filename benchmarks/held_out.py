"""Hold out a part of the training images of a folder, on which choices are made: validation images choose nothing.

python benchmarks/held_out.py camvid camvid-dev --last 0.18 --film '(.*?)_'     # the end of each film
python benchmarks/held_out.py cars cars-dev --every 6                           # every sixth image

Files are hard links where the disk allows it. The new folder's `val` is the held-out part; the old one's is not in it.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from barm.data.new_folder import new_folder
from barm.data.sources import open_source
from barm.writing import linked


def ends_of_films(names: Sequence[str], film: str, share: float) -> set[str]:
    """The last names of each film; the first parentheses of `film` match what the names of a film share.

    >>> sorted(ends_of_films(["a_3", "a_1", "a_2", "a_4", "b_1", "b_2"], "(.*?)_", 0.5))
    ['a_3', 'a_4', 'b_2']
    """
    films = defaultdict[str, list[str]](list)
    for name in sorted(names):
        if (found := re.match(film, name)) is None:
            raise SystemExit(f"'{film}' does not match '{name}'")
        films[found[1]].append(name)
    return {name for each in films.values() for name in each[len(each) - round(share * len(each)) :]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--every", type=int, help="every Nth image, from the first one")
    which.add_argument("--last", type=float, help="share of each film's images, from its end")
    parser.add_argument("--film", default="(.*?)_", help="a regular expression")
    given = parser.parse_args()
    source = open_source("folder", given.data, "train")
    names = source.names
    held = set(names[:: max(1, given.every)] if given.last is None else ends_of_films(names, given.film, given.last))
    if not 0 < len(held) < len(names):
        raise SystemExit(f"{len(held)} of {len(names)} images would be held out: expected some, and not all")
    with new_folder(given.out) as beside:
        for kind, files in (("images", source.images), ("masks", source.masks)):
            for name, file in zip(names, files, strict=True):
                target = beside / kind / ("val" if name in held else "train") / f"{name}{file.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                linked(file, target)
        for about in source.root.glob("classes.*"):
            shutil.copy(about, beside)
    print(f"{given.out}: {len(names) - len(held)} training images, {len(held)} held out")


if __name__ == "__main__":
    main()
