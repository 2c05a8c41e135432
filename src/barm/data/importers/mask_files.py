"""Which files of a folder are masks, and which image each of them belongs to.

A folder's name says it (``masks``, ``train_labels``, ``SegmentationClass``), or the end of a file's name
(``a_mask.png``), or a lossless file that is named like a JPEG. A mask belongs to the image of its name, without such
words, in the folder that corresponds to its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from barm.data.images import IMAGE_SUFFIXES
from barm.data.importers.source_tree import Tree, split_of
from barm.data.sources.tree import MASK_SUFFIXES
from barm.errors import UserError
from barm.escaping import normal
from barm.reading import read_text, real

Kind = Literal["mask", "image", "other"]
_MASK_WORDS = """
    mask masks label labels labelled ann anns annotation annotations annot annots annotated gt groundtruth seg
    segmentation segmentations semantic segmentationclass segmentationclassaug segmentationclassraw segmentationclasspng
    labelids labeltrainids
"""
_IMAGE_WORDS = """
    image images img imgs jpegimages leftimg8bit rgb photo photos sat
"""
_OTHER_WORDS = """
    segmentationobject segmentationclassvisualization segmentationclassnpy instance instances visualization
    visualizations overlay overlays preview previews vis
"""
EMPTY = "images without a mask (--empty background keeps them)"
LOST = "masks without an image"
MASK_WORDS, IMAGE_WORDS, OTHER_WORDS = (frozenset(words.split()) for words in (_MASK_WORDS, _IMAGE_WORDS, _OTHER_WORDS))
_SEPARATORS = re.compile(r"[\s_.\-]+")


class Pairs(NamedTuple):
    """Images with their masks.

    Attributes:
        masks: mask below the source, by image (a key of `Tree.images`).
        lost: masks without an image.
    """

    masks: dict[str, PurePosixPath]
    lost: tuple[PurePosixPath, ...]


@dataclass(frozen=True)
class MaskFiles:
    """The image files of a source.

    Attributes:
        images: keys of `Tree.images`.
        masks: below the source.
    """

    images: tuple[str, ...]
    masks: tuple[PurePosixPath, ...]


@dataclass(frozen=True)
class _Names:
    """Names of all image files, among which a mask is known by its name.

    Attributes:
        stems: all of them, and without the words of images.
        lossy: of files that cannot be masks.
    """

    stems: frozenset[str]
    lossy: frozenset[str]


@lru_cache(maxsize=2)
def mask_files(tree: Tree) -> MaskFiles:
    """Tell masks and images apart by their names."""
    files = tree.with_suffix(*IMAGE_SUFFIXES)
    if tree.images_root is not None and real(tree.images_root) != real(tree.root):
        inside = {real(path) for path in tree.images.values()} if _inside(tree) else set()
        files = [f for f in files if not inside or real(tree.root / f) not in inside]
        named = [f for f in files if folder_kind(f) == "mask"]
        masks = named or [f for f in files if folder_kind(f) != "other"]
        return MaskFiles(tuple(tree.images), tuple(masks))
    lossy = frozenset(normal(f.stem).lower() for f in files if f.suffix.lower() not in MASK_SUFFIXES)
    stems = {normal(f.stem).lower() for f in files}
    names = _Names(frozenset(stems | {bare_stem(stem) for stem in stems if _words(stem) & IMAGE_WORDS}), lossy)
    kinds = {f: folder_kind(f) or _kind_of_name(f, names) for f in files}
    if "image" not in kinds.values():  # a folder above all files is called like masks
        kinds = {f: _kind_of_name(f, names) for f in files}
    images = tuple(key for f, kind in kinds.items() if kind == "image" and (key := normal(f.as_posix())) in tree.images)
    return MaskFiles(images, tuple(f for f, kind in kinds.items() if kind == "mask"))


def folder_kind(path: PurePosixPath) -> Kind | None:
    """What the nearest folder that says it holds; None if none says it.

    >>> folder_kind(PurePosixPath("train_labels/a.png")), folder_kind(PurePosixPath("masks/cat/a.png"))
    ('mask', 'mask')
    """
    for part in reversed(path.parts[:-1]):
        words = _words(part)
        for kind, known in (("other", OTHER_WORDS), ("mask", MASK_WORDS), ("image", IMAGE_WORDS)):
            if words & known:
                return kind  # type: ignore[return-value]
    return None


def pair(masks: Iterable[PurePosixPath], images: Iterable[str]) -> Pairs:
    """Find the image of every mask.

    Raises:
        UserError: if an image has several masks, or a mask may belong to several images.
    """
    finder = ImageFinder(images)
    result, lost = dict[str, PurePosixPath](), list[PurePosixPath]()
    for mask in masks:
        image = finder.find(mask.stem, place_of(mask), mask)
        if image is None:
            lost.append(mask)
        elif image in result:
            raise UserError(f"{image} has two masks, {result[image]} and {mask}: move those that are not meant away")
        else:
            result[image] = mask
    return Pairs(result, tuple(lost))


class ImageFinder:
    """Finds images by the names of their masks.

    Args:
        images: keys of `Tree.images`.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self.exact, self.bare = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
        for key in images:
            stem = PurePosixPath(key).stem.lower()
            self.exact[stem].append(key)
            self.bare[bare_stem(stem)].append(key)

    def find(self, stem: str, place: Sequence[str], what: object) -> str | None:
        """The image of a mask; None if there is none.

        Args:
            stem: the mask's name without suffix.
            place: its folders, as `place_of` gives them.
            what: the mask, for messages.

        Raises:
            UserError: if several images fit equally well.
        """
        stem = normal(stem).lower()
        bare = bare_stem(stem)
        for known, name in (
            (self.exact, stem),
            (self.exact, bare),
            (self.exact, stem.removesuffix("_l")),
            (self.bare, bare),
        ):
            fits = {key: _nearness(place_of(PurePosixPath(key)), place) for key in known.get(name, [])}
            fits = {key: nearness for key, nearness in fits.items() if nearness is not None}
            best = [key for key, nearness in fits.items() if nearness == max(n for n in fits.values() if n is not None)]
            if len(best) > 1:
                raise UserError(f"{what} may be the mask of {best[0]} or {best[1]}: give images different names")
            if best:
                return best[0]
        return None


def place_of(path: PurePosixPath) -> tuple[str, ...]:
    """A file's folders without words that say what is in them.

    >>> place_of(PurePosixPath("train_labels/kitchen/a.png")), place_of(PurePosixPath("SegmentationClass/a.png"))
    (('train', 'kitchen'), ())
    """
    return tuple(bare for part in path.parts[:-1] if (bare := _bare_folder(part)))


def bare_stem(stem: str) -> str:
    """A name without words at its beginning or end that say what the file is.

    >>> bare_stem("a_mask"), bare_stem("img_001"), bare_stem("mask")
    ('a', '001', 'mask')
    """
    words = MASK_WORDS | IMAGE_WORDS
    before = None
    while before != stem:
        before = stem
        head, *rest = _SEPARATORS.split(stem, maxsplit=1)
        if rest and rest[0] and head.lower() in words:
            stem = rest[0]
        last = re.search(r"[\s_.\-]+([^\s_.\-]+)$", stem)
        if last and last.start() and last[1].lower() in words:
            stem = stem[: last.start()]
    return stem


class Splits:
    """The split of each image: what its folder says, or its mask's, or lists of names.

    Args:
        tree: the source.
        folder: where the lists are, below the source.

    Attributes:
        listed: whether there are lists.
    """

    def __init__(self, tree: Tree, folder: str | None = None) -> None:
        self._entries = defaultdict[str, list[tuple[tuple[str, ...], str]]](list)
        lists = _lists(tree, folder)
        for path in lists:
            split = split_of(path.name, file=True)
            for line in read_text(tree.root / path).splitlines() if split else []:
                name = _listed_name(line)
                if split and name.parts:
                    self._entries[name.parts[-1].lower()].append((tuple(p.lower() for p in name.parts), split))
        self.listed = bool(self._entries)

    def of(self, image: str, mask: PurePosixPath | None = None) -> str | None:
        """The split of an image.

        Raises:
            UserError: if two lists hold it.
        """
        return split_of(image) or (split_of(mask) if mask else None) or self.in_lists(image)

    def in_lists(self, image: str) -> str | None:
        """The split whose list holds an image; None if none does.

        Raises:
            UserError: if two lists hold it.
        """
        parts = tuple(p.lower() for p in PurePosixPath(image).with_suffix("").parts)
        fits = self._entries.get(parts[-1], [])
        best = {
            split for names, split in fits if _common_end(names, parts) == max(_common_end(n, parts) for n, _ in fits)
        }
        if len(best) > 1:
            raise UserError(f"{image} stands in the lists {' and '.join(sorted(best))}: keep it in one of them")
        return best.pop() if best else None


def _lists(tree: Tree, folder: str | None) -> list[PurePosixPath]:
    """Text files with the names of images of a split."""
    texts = [f for f in tree.with_suffix(".txt") if split_of(f.name, file=True)]
    if folder is not None:
        return [f for f in texts if f.parent.as_posix() == folder]
    inner = [f for f in texts if f.parent.as_posix() == "ImageSets/Segmentation"]
    return inner or [f for f in texts if f.parent.as_posix() in (".", "ImageSets")]


def _listed_name(line: str) -> PurePosixPath:
    """The first name of a line, without suffix; lines with blanks in it hold an image and its mask."""
    text = normal(line.strip().replace("\\", "/"))
    path = PurePosixPath(text)
    if path.suffix.lower() not in IMAGE_SUFFIXES or " " in text:
        first = PurePosixPath(text.split(maxsplit=1)[0]) if text else path
        path = first if first.suffix.lower() in IMAGE_SUFFIXES else path
    return path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path


def _kind_of_name(path: PurePosixPath, names: _Names) -> Kind:
    stem = normal(path.stem).lower()
    bare = bare_stem(stem)
    ends = _words(stem) & MASK_WORDS
    if ends and bare != stem and bare in names.stems:
        return "mask"
    if path.suffix.lower() in MASK_SUFFIXES and (stem in names.lossy or _begins(stem, names.lossy)):
        return "mask"
    inner = path.suffix.lower() in MASK_SUFFIXES and path.parts[:-1] and path.parts[-2].lower() in names.lossy
    return "mask" if inner else "image"


def _begins(stem: str, names: frozenset[str]) -> bool:
    return any(stem[: cut.start()] in names for cut in _SEPARATORS.finditer(stem))


def _words(part: str) -> set[str]:
    part = part.lower()
    words = {*_SEPARATORS.split(part), _SEPARATORS.sub("", part)}
    return {*words, "annot"} if part.endswith("annot") else words


def _bare_folder(part: str) -> str:
    part = part.lower()
    known = MASK_WORDS | IMAGE_WORDS
    if _SEPARATORS.sub("", part) in known:
        return ""
    return "_".join(word for word in _SEPARATORS.split(part.removesuffix("annot")) if word and word not in known)


def _nearness(one: Sequence[str], other: Sequence[str]) -> tuple[bool, int] | None:
    """How well two places fit; None if neither holds all folders of the other, in order."""
    shorter, longer = sorted((one, other), key=len)
    rest = iter(longer)
    if not all(part in rest for part in shorter):
        return None
    return tuple(one) == tuple(other), len(shorter)


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    number = 0
    for ours, theirs in zip(reversed(one), reversed(other), strict=False):
        if ours != theirs:
            break
        number += 1
    return number


def _inside(tree: Tree) -> bool:
    assert tree.images_root is not None
    inner, outer = real(tree.images_root), real(tree.root)
    return inner.is_relative_to(outer)
