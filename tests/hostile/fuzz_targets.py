"""Every reader of barm, each with the valid files that are made hostile for it."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from material import make_material
from PIL import Image

HERE = Path(__file__).parent
sys.path += [str(HERE.parent / "data/importers"), str(HERE.parent / "weights/foreign")]
Call = Callable[[Path], object]


class Target(NamedTuple):
    """A reader.

    Attributes:
        group: row of the table.
        name: of the reader.
        files: by place below the case's folder.
        fuzzed: places of which one is made hostile.
        call: reads them, in the folder.
        weight: how often it is tried, compared with others.
        sound: whether it takes the files as they are.
        resealed: whether checksums of a run are among the files, which mostly fit what was made hostile.
    """

    group: str
    name: str
    files: Mapping[str, bytes]
    fuzzed: tuple[str, ...]
    call: Call
    weight: float = 1
    sound: bool = True
    resealed: bool = False


def tree(folder: Path, below: str = "") -> dict[str, bytes]:
    """The files below a folder."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {f"{below}{p.relative_to(folder).as_posix()}": p.read_bytes() for p in paths}


def make_targets(place: Path) -> list[Target]:
    """All readers, with material made in a new folder."""
    material = place / "material"
    make_material(material)
    made = (_settings, _runs, _data, _images, _caches, _imports, _weights, _archives, _records)
    return [target for make in made for target in make(material)]


def cli(*words: str) -> Call:
    """A command."""

    def call(folder: Path) -> None:
        from barm.cli import main

        sys.argv = ["barm", *words]
        main()

    return call


def _settings(material: Path) -> Iterator[Target]:
    """Recipes, settings, grids, lists of names."""
    from barm.cli.common import groups_in, names_in
    from barm.config import load_config
    from barm.grid_file import cells, read_grid

    recipe = b'extends = "shapes/2-1/barm"\nseed = 3\n[data]\nroot = "data"\n[base]\nepochs = 2\n'
    whole = (material / "run/config.toml").read_bytes()
    grid = (
        b'recipes = "shapes"\nmethods = ["barm", "mib", "own"]\ntasks = ["2-1"]\nseeds = [1, 2]\norders = [0, 1]\n'
        b'skip = ["2-1-overlap-s1/barm"]\nsame_start = [["mib", "own"]]\noverrides = ["base.epochs=1"]\n'
        b'[variants.own]\nrecipe = "mib"\noverrides = ["increment.epochs=2"]\n[quick]\nseeds = [1]\n'
        b"[shapes]\nclasses = 4\ntrain = 10\n"
    )
    lines = b"base.epochs=2\nmodel.backbone=test_resnet\nincrement.scale=[0.5,2]\ntask.order=2\ndata.root=x\nseed=4\n"

    def settings(folder: Path) -> None:
        if not (folder / "words.txt").is_file():  # words come from a terminal, not from a file
            return
        text = (folder / "words.txt").read_text("utf-8", errors="surrogateescape")
        load_config("shapes/2-1/barm", text.split("\n")[:-1])

    def grids(folder: Path) -> None:
        for quick in (False, True):
            assert len(cells(read_grid(folder / "grid.toml", quick=quick))) < 10**6

    def names(folder: Path) -> None:
        names_in("@names.txt", "--classes")
        groups_in(["@groups.toml"])
        if (folder / "names.txt").is_file():
            names_in(((folder / "names.txt").read_text("utf-8", errors="replace")), "--classes")

    yield Target("recipes", "recipe", {"odd.toml": recipe}, ("odd.toml",), lambda f: load_config(f / "odd.toml"))
    yield Target("recipes", "config", {"odd.toml": whole}, ("odd.toml",), lambda f: load_config(f / "odd.toml"))
    yield Target("recipes", "--set", {"words.txt": lines}, ("words.txt",), settings)
    yield Target("grid files", "grid", {"grid.toml": grid}, ("grid.toml",), grids)
    both = {"names.txt": b"cat\n# note\nhot dog\n", "groups.toml": b'groups = [["cat", "dog"], ["cow"]]\n'}
    yield Target("lists", "names and groups", both, tuple(both), names)


def _runs(material: Path) -> Iterator[Target]:
    """Step folders, what is beside them, and states of steps that are not finished."""
    from barm.engine.checkpoint import checksums
    from barm.engine.checkpoint.directory import RunDirectory
    from barm.report.history import read_runs
    from barm.report.results import read_results
    from barm.weights.trained import open_trained

    run = {k: v for k, v in tree(material / "run", "run/").items() if "events" not in k}
    record = {"extension.json": b'{"from": "run", "step": 2, "learned": ["x"]}'}
    small = {k: v for k, v in run.items() if not k.endswith(".safetensors")}

    def read(folder: Path) -> None:
        directory = RunDirectory(folder / "run")
        directory.config(), directory.provenance()
        for index in directory.finished_steps()[:4]:
            for file in ("method.json", "counts.json", "metrics.json", "pictures.json"):
                directory.read(index, file)
        read_results([folder / "run"])

    fuzzed = tuple(k for k in small if k.endswith((".json", ".toml")))
    yield Target("step folders", "results", small, fuzzed, read, 2, resealed=True)
    extended = {**small, **{f"run/{k}": v for k, v in record.items()}}
    extended["run/checksums.json"] = checksums._manifest({k: [checksums.crc(v)] for k, v in record.items()})
    report = (*fuzzed, "run/log.csv", "run/extension.json")
    yield Target("step folders", "history", extended, report, lambda f: read_runs([f / "run"]), 2, resealed=True)
    yield Target("step folders", "compare", small, fuzzed, cli("compare", "run"), 0.3, resealed=True)
    last = {k: v for k, v in run.items() if k.startswith(("run/config", "run/step02"))}
    networks = ("run/step02/method.json", "run/step02/model.safetensors", "run/config.toml")
    yield Target("step folders", "network", last, networks, lambda f: open_trained(f / "run"), 2, resealed=True)
    stopped = {k: v for k, v in tree(material / "stopped", "stopped/").items() if "events" not in k}
    state = next(k for k in stopped if k.endswith("trainer.pt"))
    load = lambda f: RunDirectory(f / "stopped").load_partial(1)  # noqa: E731
    yield Target("step folders", "state", stopped, (state,), load, 1.5, resealed=True)
    words = ("train", "--recipe", "stopped/config.toml", "--out", "stopped", "--resume", "--quiet", "--step", "1")
    data = tree(material / "data", "data/")
    config = stopped["stopped/config.toml"].partition(b"\n")[2].replace(str(material).encode(), b".")
    every = tuple(k for k in stopped if not k.endswith((".lock", "log.csv")))
    files = {**stopped, **data, "stopped/config.toml": checksums.sealed(config.decode()).encode()}
    yield Target("step folders", "resume", files, every, cli(*words), 0.1, resealed=True)


def _data(material: Path) -> Iterator[Target]:
    """Data sets: lists, class files, masks, images, in each layout."""
    from barm.data.class_values import read_class_values
    from barm.data.index import checked, read_class_list, scan
    from barm.data.sources import open_source

    def opened(layout: str) -> Call:
        def call(folder: Path) -> None:
            for split in ("train", "val"):
                source = open_source(layout, folder / "data", split)
                found = scan(source, cache=False)
                if not found.problems:
                    sample = source[0]
                    assert sample.image.mode == "RGB"
                    assert sample.mask.mode == "L"
                    assert sample.image.size == sample.mask.size

        return call

    voc = _fewer(tree(material / "data", "data/"))
    own = _fewer(tree(material / "own", "data/"))
    for layout, files in (("voc", voc), ("folder", own)):
        texts = tuple(k for k in files if k.endswith((".txt", ".toml")))
        pictures = tuple(k for k in files if k.endswith((".png", ".jpg")))
        yield Target("lists", f"lists of {layout}", files, texts, opened(layout), 1.5)
        yield Target("images and masks", f"images and masks of {layout}", files, pictures, opened(layout), 1.5)
        yield Target("images and masks", f"data check of {layout}", files, pictures, cli("data", "check", "data"), 0.3)
    listed = {"list.txt": b"image0 1 2\nimage1 3\nimage2\n"}
    yield Target("lists", "class list", listed, ("list.txt",), lambda f: read_class_list(f / "list.txt"))
    values = {"values.toml": b'other = "ignore"\n[values]\n0 = "background"\n1 = "cat"\n'}
    colours = {"values.toml": b'other = "ignore"\n[colours]\n"#000000" = "background"\n"#ff0000" = "cat"\n'}
    for name, files in (("values", values), ("colours", colours)):
        yield Target("lists", name, files, ("values.toml",), lambda f: read_class_values(f / "values.toml"))

    def checks(folder: Path) -> None:
        checked(open_source("voc", folder / "data", "train"), folder / "list.txt")

    names = voc["data/ImageSets/Segmentation/train.txt"].split()
    with_list = {**voc, "list.txt": b"".join(n + b" 0 1\n" for n in names)}
    yield Target("lists", "class list of a split", with_list, ("list.txt",), checks, 0.5)


def _fewer(files: Mapping[str, bytes], most: int = 3) -> dict[str, bytes]:
    """The first images of every folder, and lists of these alone."""
    kept, counts = dict[str, bytes](), dict[str, int]()
    for name, content in files.items():
        folder = name.rpartition("/")[0]
        if name.endswith((".jpg", ".png")):
            counts[folder] = counts.get(folder, 0) + 1
            split = "val" if "val" in name else "train"
            counts[folder + split] = counts.get(folder + split, 0) + 1
            if counts[folder + split] > most:
                continue
        kept[name] = content
    stems = {name.rpartition("/")[2].rpartition(".")[0].encode() for name in kept if name.endswith((".jpg", ".png"))}
    for name, content in kept.items():
        if name.endswith((".txt",)) and any(line in stems for line in content.split()):
            kept[name] = b"".join(line + b"\n" for line in content.split(b"\n") if line.split()[:1] and line in stems)
    return kept


def pictures() -> dict[str, bytes]:
    """One image in many forms."""
    random = np.random.default_rng(0)
    rgb = Image.fromarray(random.integers(0, 255, (48, 56, 3), np.uint8))
    found = dict[str, bytes]()
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "PNG": (rgb, {}),
        "JPEG": (rgb, {"exif": _exif(6)}),
        "WEBP": (rgb, {}),
        "TIFF": (rgb, {"compression": "tiff_lzw"}),
        "GIF": (rgb.convert("P"), {"save_all": True, "append_images": [rgb.convert("P").rotate(90)] * 3}),
        "BMP": (rgb, {}),
        "PPM": (rgb, {}),
        "AVIF": (rgb, {}),
        "EPS": (rgb, {}),
        "JPEG2000": (rgb, {}),
        "MPO": (rgb, {"save_all": True, "append_images": [rgb]}),
        "ICO": (rgb, {}),
        "TGA": (rgb, {}),
    }
    for kind, (image, options) in forms.items():
        out = io.BytesIO()
        try:
            image.save(out, kind, **options)
        except (OSError, KeyError, ValueError):  # not in this Pillow
            continue
        found[kind] = out.getvalue()
    out = io.BytesIO()
    Image.fromarray(random.integers(0, 65535, (48, 56), np.uint16)).save(out, "PNG")
    found["PNG of 16 bits"] = out.getvalue()
    out = io.BytesIO()
    rgb.convert("CMYK").save(out, "JPEG")
    found["JPEG of CMYK"] = out.getvalue()
    return found


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _images(material: Path) -> Iterator[Target]:
    """Images as they are predicted, masks as they are read, and uploads."""
    from barm.app.viewer import Limits, Refused, read_upload
    from barm.data.images import FORMATS, probe, read_image

    def read(name: str) -> Call:
        def call(folder: Path) -> None:
            size = probe(folder / name).size
            image = read_image(folder / name)
            assert image.mode == "RGB"
            assert image.size == size

        return call

    def upload(name: str) -> Call:
        def call(folder: Path) -> None:
            try:
                shown = read_upload(folder / name, Limits())
            except Refused as error:
                if str(folder) in str(error):
                    raise RuntimeError("a path of this machine on the page") from error
                raise
            assert shown.pixels.dtype == np.uint8
            assert shown.pixels.shape[0] * shown.pixels.shape[1] <= Limits().shrink_to

        return call

    for kind, content in pictures().items():
        name = f"image.{'png' if kind.startswith('PNG') else 'jpg'}"
        taken = kind.partition(" ")[0] in FORMATS
        weight = 0.6 if taken else 0.1
        yield Target("images and masks", f"image: {kind}", {name: content}, (name,), read(name), weight, taken)
        yield Target("uploads", f"upload: {kind}", {name: content}, (name,), upload(name), weight, taken)


def _caches(material: Path) -> Iterator[Target]:
    """The remembered index, decoded images."""
    from barm.data.decoded import DecodedSource
    from barm.data.index import checked, scan
    from barm.data.sources import open_source

    files = _fewer(tree(material / "data", "data/"))

    def cached(folder: Path) -> None:
        """The index is written, made hostile by the runner's random, and read."""
        import fuzz_mutations

        source = open_source("voc", folder / "data", "train")
        first = scan(source)
        random = _random(folder)
        for path in sorted((folder / "cache").glob("index-*.json")):
            content = path.read_bytes()
            if random.random() < 0.5:  # the entries alone, so that their keys still fit
                known = json.loads(content.partition(b"\n")[2])  # below the checksum, which is left out
                for name, entry in known.items():
                    keys = {k: v for k, v in entry.items() if k != "key"}
                    new = fuzz_mutations.changed(keys, random)
                    known[name] = {**new, "key": entry["key"]} if isinstance(new, dict) else new
                path.write_text(json.dumps(known))
            else:
                path.write_bytes(fuzz_mutations.mutated(path.name, content, random))
        again = scan(source)
        assert len(again.classes) == len(first.classes)

    def decoded(folder: Path) -> None:
        import fuzz_mutations

        source = checked(open_source("voc", folder / "data", "train"))
        first = DecodedSource(source, 10**6)[0]
        random = _random(folder)
        for path in sorted((folder / "cache").glob("decoded-*")):
            if random.random() < 0.6:
                path.write_bytes(fuzz_mutations.mutated(path.name, path.read_bytes(), random))
        again = DecodedSource(source, 10**6)
        for i in range(len(source)):
            assert again[i].image.size == first.image.size

    seeds = {**files, "seed.txt": b"0 1 2 3 4 5 6 7 8 9"}
    yield Target("caches", "index", seeds, ("seed.txt",), cached, 2)
    yield Target("caches", "decoded", seeds, ("seed.txt",), decoded, 1.5)


def _random(folder: Path) -> Any:
    """Random numbers that the case decides, for files that are written while it runs."""
    import fuzz_mutations

    seed = folder / "seed.txt"
    return fuzz_mutations.Random(seed.read_bytes() if seed.is_file() else b"")


def _imports(material: Path) -> Iterator[Target]:
    """Every format of annotations."""
    import mask_writers
    import samples
    import writers

    from barm.data.importers import IMPORTERS, import_data
    from barm.data.importers.annotations import ImportOptions

    outlines = {
        "coco": writers.write_coco,
        "labelme": writers.write_labelme,
        "label_studio": writers.write_label_studio,
        "yolo": writers.write_yolo,
        "huggingface": writers.write_huggingface,
    }
    masks = {
        "cvat": mask_writers.write_cvat,
        "colours": mask_writers.write_colours,
        "binary": mask_writers.write_binary,
        "indexed": mask_writers.write_indexed,
        "cityscapes": mask_writers.write_cityscapes,
    }
    assert {*outlines, *masks} == set(IMPORTERS)
    for name, write in {**outlines, **masks}.items():
        root = material / "sources" / name
        made = samples.samples(number=2, holes=name == "label_studio") if name in outlines else mask_writers.samples(2)
        root.parent.mkdir(exist_ok=True)
        write(root, made)
        files = tree(root, "source/")
        texts = tuple(k for k in files if not k.endswith((".png", ".jpg")))
        pictures = tuple(k for k in files if k.endswith((".png", ".jpg")))

        def call(folder: Path, name: str = name) -> None:
            follows = IMPORTERS[name].options
            more: dict[str, Any] = {"boxes": "fill"} if "boxes" in follows else {}
            more |= {"first": "1"} if "first" in follows and name == "huggingface" else {}
            import_data(folder / "source", folder / "out", ImportOptions(format=name, **more), val_share=0.5)
            wrong = [p for p in (folder / "out").rglob("*") if p.is_symlink()]
            assert not wrong, wrong

        if texts:
            yield Target("imports", f"{name}: annotations", files, texts, call, 2.5 if name in outlines else 1)
        if pictures:
            yield Target("imports", f"{name}: images", files, pictures, call, 1 if name in outlines else 1.5)
        yield Target("imports", f"{name}: any format", files, tuple(files), _any_format, 0.3)


def _any_format(folder: Path) -> None:
    from barm.data.importers import import_data

    import_data(folder / "source", folder / "out")


def _weights(material: Path) -> Iterator[Target]:
    """Checkpoints: ours, official ones, those of other libraries."""
    from barm.models.backbone import create_backbone
    from barm.weights.published import export_checkpoint, read_checkpoint
    from barm.weights.recognise import recognise

    ours = (material / "model.safetensors").read_bytes()
    yield Target("checkpoints", "one file", {"m.safetensors": ours}, ("m.safetensors",), _open("m.safetensors"), 2)
    export_checkpoint(material / "run", material / "official.pth")
    official = (material / "official.pth").read_bytes()

    def read(folder: Path) -> None:
        recognise(folder / "m.pth").line(folder / "m.pth")
        for tensor in read_checkpoint(folder / "m.pth").values():
            assert tensor.numel() < 10**8, "a tensor of more values than the file holds"

    yield Target("checkpoints", "official", {"m.pth": official}, ("m.pth",), read, 2)
    words = ("weights", "import", "m.pth", "--out", "new", "--dataset", "voc", "--task", "15-1", "--step", "0")
    yield Target("checkpoints", "official import", {"m.pth": official}, ("m.pth",), cli(*words), 0.3, sound=False)
    old = io.BytesIO()
    torch.save({"model_state": {"a.weight": torch.zeros(3, 4)}}, old, _use_new_zipfile_serialization=False)
    yield Target("checkpoints", "old format", {"m.pth": old.getvalue()}, ("m.pth",), read)

    def show(folder: Path) -> None:
        for name in ("m.pth", "m.safetensors", "."):
            kind = recognise(folder / name)
            assert "\n" not in kind.line(folder / name)

    shown = {"m.pth": old.getvalue(), "m.safetensors": ours, "config.json": b'{"architectures": ["SegformerX"]}'}
    yield Target("checkpoints", "recognised", shown, tuple(shown), show, 1.5)
    yield from _foreign(material, recognise)
    body = create_backbone("test_resnet", 16, pretrained=False)
    saved = io.BytesIO()
    torch.save(body.state_dict(), saved)

    def backbone(folder: Path) -> None:
        create_backbone("test_resnet", 16, pretrained=False, weights=folder / "b.pth")

    yield Target("checkpoints", "backbone", {"b.pth": saved.getvalue()}, ("b.pth",), backbone, 0.5)


def _open(name: str) -> Call:
    from barm.weights.trained import open_trained

    return lambda folder: open_trained(folder / name)


def _foreign(material: Path, recognise: Any) -> Iterator[Target]:
    """Folders of other libraries with small networks."""
    import networks

    from barm.weights.importing import find_model

    smp = networks.of_smp("Unet", "tu-test_resnet", decoder_channels=(16, 8, 8, 8, 8))
    for name, write, fuzzed in (
        ("smp", smp, ("m/config.json", "m/model.safetensors", "m/classes.txt")),
        ("transformers", networks.segformer, ("m/config.json", "m/preprocessor_config.json", "m/model.safetensors")),
    ):
        write(material / "foreign" / name)
        files = {k: v for k, v in tree(material / "foreign" / name, "m/").items() if not k.endswith(".md")}
        config = json.loads(files["m/config.json"])
        config |= {"auto_map": {"AutoModel": "owner/name--code.Model"}} if name == "transformers" else {}
        files |= {"m/config.json": json.dumps(config).encode(), "m/code.py": b"import os\nos.system('touch canary')\n"}
        yield Target("checkpoints", f"{name} folder", files, fuzzed, lambda f: find_model(f / "m"), 1)
        yield Target("checkpoints", f"{name} shown", files, fuzzed, lambda f: recognise(f / "m").line(f / "m"), 1)


def _archives(material: Path) -> Iterator[Target]:
    """Archives of data sets."""
    from barm.data.archives import Archive, Part
    from barm.data.unpack import unpack

    parts = (Part("list.txt", 1), Part("images", 2))
    archive = Archive("own", "own.tar", ("own.tar",), "http://home", None, None, 1000, "in/side", parts)
    files = {"in/side/images/a.jpg": b"a" * 300, "in/side/images/deep/b.jpg": b"b" * 300, "in/side/list.txt": b"a\n"}
    packed, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar, zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as flat:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            flat.writestr(name, content)

    def call(name: str) -> Call:
        def read(folder: Path) -> None:
            unpack(folder / name, archive, parts, folder / "out", lambda done, size: None)
            assert sum(p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file()) <= archive.unpacked

        return read

    yield Target("archives", "tar", {"own.tar": packed.getvalue()}, ("own.tar",), call("own.tar"), 3)
    yield Target("archives", "zip", {"own.zip": zipped.getvalue()}, ("own.zip",), call("own.zip"), 3)


def _records(material: Path) -> Iterator[Target]:
    """Notes of jobs, of downloads, of saliency maps."""
    from barm.data.fetch import Download
    from barm.data.saliency.record import read_recipe
    from barm.jobs.plan import JobOptions, Places, Plan, PlannedRun, read_plan
    from barm.jobs.states import RunState, Submission, read_state, read_submission, views_of

    run = PlannedRun(name="a/b", method="b", task="2-1", setting="overlap", order=0, seed=1, finished=False, starts=())
    plan = Plan(grid={}, root="data", host="here", cwd=".", options=JobOptions(), runs=(run,))
    state = RunState(status="running", failures=0, began=1.0, ended=None, seconds=0.0, host="here", pid=1, job="1")
    submission = Submission(job="1", when=1.0, slot=0, silent=0)

    def jobs(folder: Path) -> None:
        places = Places(folder / "grid")
        found = read_plan(places)
        read_state(places, "a/b"), read_submission(places, "a/b")
        views_of(found, places, lambda views: {})

    files = {
        "grid/jobs/plan.json": plan.model_dump_json().encode(),
        "grid/jobs/a/b.state.json": state.model_dump_json().encode(),
        "grid/jobs/a/b.job.json": submission.model_dump_json().encode(),
    }
    yield Target("records", "jobs", files, tuple(files), jobs)
    recipe = {"maps/saliency.json": _recipe().encode()}
    yield Target("records", "saliency", recipe, tuple(recipe), lambda f: read_recipe(f / "maps"))
    notes = {"notes.json": b'{"address": "http://x/y", "size": 10, "validator": "\\"a\\""}'}

    def download(folder: Path) -> None:
        one = Download.__new__(Download)
        one.notes = folder / "notes.json"
        origin = one._read_origin()
        assert origin.size is None or isinstance(origin.size, int)

    yield Target("records", "download", notes, ("notes.json",), download, 0.5)


def _recipe() -> str:
    from barm.data.saliency.record import Recipe

    return Recipe(tool="a tool", version="1", settings={"threshold": "otsu"}, images=3).model_dump_json()
