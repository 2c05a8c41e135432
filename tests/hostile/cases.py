"""Hundreds of files as nobody should write them, each with the command that meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from material import PLACES, TEXTS, Hostile, emptied, grey, holding, png, reseal
from safetensors.torch import save

Outcome = Literal["refused", "taken", "either"]
STEP0, STEP2 = "run/step00", "run/step02"
TRAIN = ("train", "--recipe", "shapes/2-1/barm", "--data", "data", "--out", "new", "--quiet")
SETTINGS = ("model.backbone=test_resnet", "model.channels=16", "base.epochs=1", "increment.epochs=1")
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]
RESUME = ("train", "--recipe", "stopped/config.toml", "--out", "stopped", "--resume", "--quiet", "--step", "1")
STATE = ("iteration", "model", "optimizer", "method", "memory", "skipped", "scaler")


class Case(NamedTuple):
    """One hostile file.

    Attributes:
        kind: a row of the table.
        name: of the case.
        needs: what is copied into its folder.
        prepare: puts the file there.
        words: of the command.
        outcome: a line and a status other than 0, or a result, or either.
    """

    kind: str
    name: str
    needs: tuple[str, ...]
    prepare: Callable[[Path], object]
    words: Sequence[str]
    outcome: Outcome = "refused"


def _at(file: str, make: Hostile) -> Callable[[Path], object]:
    return lambda folder: emptied(make)(folder / file)


def _files_of_runs() -> Iterator[Case]:
    """Every file of a run, each in the command that reads it first."""
    evaluate = ("evaluate", "run", "--quiet")
    readers = {
        f"{STEP2}/method.json": evaluate,
        f"{STEP2}/metrics.json": ("compare", "run"),
        f"{STEP0}/counts.json": evaluate,
        f"{STEP2}/model.safetensors": evaluate,
        "run/config.toml": evaluate,
    }
    for file, words in readers.items():
        for name, make in PLACES.items():
            yield Case("places of a run's files", f"{file}: {name}", ("run", "data"), _at(file, make), words)
    for file in (f"{STEP2}/method.json", f"{STEP2}/metrics.json", f"{STEP0}/counts.json"):
        for name, make in TEXTS.items():
            if (file, name) != (f"{STEP0}/counts.json", "a list"):
                yield Case("JSON of a run", f"{file}: {name}", ("run", "data"), _at(file, make), readers[file])
    for name, make in {**PLACES, **TEXTS}.items():
        case = f"extension.json: {name}"
        words = ("report", "run", "--out", "page.html", "--images", "0")
        yield Case("JSON of a run", case, ("run",), _at("run/extension.json", make), words)
        case = f"log.csv: {name}"
        yield Case("log of a run", case, ("run",), _at("run/log.csv", make), words, "taken")
    for name, make in PLACES.items():
        yield Case(
            "log of a run",
            f"resume with log.csv: {name}",
            ("stopped", "data"),
            _at("stopped/log.csv", make),
            RESUME,
            "either",
        )
        yield Case(
            "places of a run's files",
            f".lock: {name}",
            ("stopped", "data"),
            _at("stopped/.lock", make),
            RESUME,
            "either",
        )


def _changed(file: str, change: Callable[[Any], Any]) -> Callable[[Path], object]:
    """The JSON file with a change; what it gives is written."""

    def put(folder: Path) -> None:
        path = folder / file
        value = json.loads(path.read_text("utf-8"))
        changed = change(value)
        path.write_text(json.dumps(value if changed is None else changed), "utf-8")

    return put


def _values_in_runs() -> Iterator[Case]:
    """JSON that is whole, with values that cannot be."""
    method: dict[str, Callable[[Any], Any]] = {
        "no classes": lambda v: v.pop("classes") and None,
        "a class less": lambda v: v["classes"].pop() and None,
        "a class twice": lambda v: v["groups"].append(v["groups"][0]),
        "an id of text": lambda v: v["classes"][1].update(id="1"),
        "a colour of words": lambda v: v["classes"][1].update(colour=["a", "b", "c"]),
        "a colour out of range": lambda v: v["classes"][1].update(colour=[0, 0, 1000]),
        "a name with a line's end": lambda v: v["classes"][1].update(name="a\nb"),
        "a name with a terminal's sign": lambda v: v["classes"][1].update(name="\x1b[31mred"),
        "a name that is half a character": lambda v: v["classes"][1].update(name="\ud800"),
        "an unknown method": lambda v: v["method"].update(name="nonsense"),
        "a method without a name": lambda v: v["method"].pop("name") and None,
        "an unknown backbone": lambda v: v["model"].update(backbone="nonsense"),
        "a billion channels": lambda v: v["model"].update(channels=10**9),
        "no groups": lambda v: v.update(groups=[]),
        "groups of text": lambda v: v.update(groups="12"),
        "a model of text": lambda v: v.update(model="x"),
    }
    metrics: dict[str, Callable[[Any], Any]] = {
        "no miou": lambda v: v.pop("miou") and None,
        "a miou of text": lambda v: v["miou"].update(all="x"),
        "a miou that is infinite": lambda v: v["miou"].update(all=float("inf")),
        "learned is a number": lambda v: v.update(learned=3),
        "class_iou is a list": lambda v: v.update(class_iou=[1]),
    }
    counts: dict[str, Callable[[Any], Any]] = {
        "negative": lambda v: v[0].__setitem__(0, -1),
        "beyond 64 bits": lambda v: v[0].__setitem__(0, 10**30),
        "text": lambda v: v[0].__setitem__(0, "1"),
        "fractions": lambda v: v[0].__setitem__(0, 0.5),
        "not square": lambda v: v[0].append(1),
    }
    evaluate = ("evaluate", "run", "--quiet")
    for file, changes, words in (
        (f"{STEP2}/method.json", method, evaluate),
        (f"{STEP2}/metrics.json", metrics, ("compare", "run")),
        (f"{STEP0}/counts.json", counts, evaluate),
    ):
        for name, change in changes.items():
            yield Case("values in a run", f"{file}: {name}", ("run", "data"), _changed(file, change), words)


def _data() -> Iterator[Case]:
    """Files of a data set."""
    files = {
        "data/JPEGImages/shapes_train_000001.jpg": ("data", "check", "data"),
        "data/SegmentationClassAug/shapes_train_000001.png": ("data", "check", "data"),
        "data/ImageSets/Segmentation/val.txt": TRAIN,
        "own/classes.txt": ("data", "check", "own"),
    }
    for file, words in files.items():
        for name, make in PLACES.items():
            yield Case("places of data", f"{file}: {name}", (file.split("/")[0],), _at(file, make), words)
    mask, image = "data/SegmentationClassAug/shapes_train_000001.png", "data/JPEGImages/shapes_train_000001.jpg"
    sound = png(48, 48, 8, 0, (b"\0" + b"\1" * 48) * 48)
    images = {
        "60000 x 60000": png(60000, 60000, 8, 0),
        "2 billion x 2 billion": png(2**31 - 1, 2**31 - 1, 8, 0),
        "no pixels": png(0, 0, 8, 0),
        "cut short": sound[: len(sound) // 2],
        "a header alone": sound[:33],
        "a wrong checksum": sound[:40] + b"\0\0\0\0" + sound[44:],
        "half a row": png(48, 48, 8, 0, b"\0" * 20),
        "an unknown depth": png(48, 48, 3, 0, b"\0" * 49 * 48),
        "a text chunk that unpacks for ever": sound[:33] + sound[33:] * 0 + _bomb() + sound[33:],
    }
    for name, content in images.items():
        check = ("data", "check", "data")
        outcome: Outcome = "either" if name.startswith("a text chunk") else "refused"
        yield Case("images", f"mask: {name}", ("data",), _at(mask, holding(content)), check, outcome)
        yield Case("images", f"image: {name}", ("data",), _at(image, holding(content)), check, outcome)
        words = ("predict", "run", "odd.png", "--out", "seen", "--quiet")
        yield Case("images", f"predict: {name}", ("run",), _at("odd.png", holding(content)), words, outcome)
    depths: dict[str, tuple[bytes, Outcome]] = {
        "1 bit": (grey(1, 1), "taken"),
        "2 bits": (grey(2, 3), "taken"),
        "4 bits": (grey(4, 4), "taken"),
        "16 bits, small ids": (grey(16, 4), "taken"),
        "4 bits, an unknown id": (grey(4, 9), "refused"),
        "16 bits, large ids": (grey(16, 4000), "refused"),
        "colours": (png(48, 48, 8, 2, (b"\0" + bytes(144)) * 48), "refused"),
    }
    for name, (content, outcome) in depths.items():
        yield Case(
            "images", f"mask of {name}", ("data",), _at(mask, holding(content)), ("data", "check", "data"), outcome
        )
    for name, make in PLACES.items():
        words = ("predict", "run", "odd.jpg", "--out", "seen", "--quiet")
        yield Case("images", f"predict: {name}", ("run",), _at("odd.jpg", make), words)


def _bomb() -> bytes:
    """A compressed text chunk of 200 MB."""
    import struct
    import zlib

    content = b"zTXt" + b"key\0\0" + zlib.compress(bytes(200_000_000), 9)
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def _index() -> Iterator[Case]:
    """The remembered index; it is found out anew."""

    def spoil(make: Hostile) -> Callable[[Path], object]:
        return lambda folder: [emptied(make)(p) for p in (folder / "cache").glob("index-*.json")]

    def entries(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        def put(folder: Path) -> None:
            for path in (folder / "cache").glob("index-*.json"):
                known = json.loads(path.read_text("utf-8").partition("\n")[2])
                for entry in known.values():
                    change(entry)
                path.write_text(json.dumps(known), "utf-8")

        return put

    check = ("data", "check", "data")
    for name, make in {**PLACES, **TEXTS}.items():
        yield Case("index", name, ("data", "indexed"), spoil(make), check, "taken")
    for key in ("key", "size"):
        for name, value in {"missing": None, "null": "null", "text": "x", "a list": [[]], "negative": [-1, -1]}.items():
            change = (lambda e, k=key: e.pop(k)) if value is None else (lambda e, k=key, v=value: e.update({k: v}))
            yield Case("index", f"{key} {name}", ("data", "indexed"), entries(change), check, "taken")
    yield Case("index", "entries of text", ("data", "indexed"), entries(lambda e: e.clear()), check, "taken")


def _recipes() -> Iterator[Case]:
    """Recipes, grids and lists."""
    train = ("train", "--recipe", "odd.toml", "--data", "data", "--out", "new", "--quiet")
    grid = ("compare", "--grid", "odd.toml", "--out", "new", "--quiet")
    texts: dict[str, Hostile] = {
        "Latin-1": holding("# caf\xe9".encode("latin-1")),
        "UTF-16": holding("seed = 1".encode("utf-16")),
        "deep arrays": holding("x = " + "[" * 50_000 + "]" * 50_000),
        "deep tables": holding("x = " + "{a=" * 5_000 + "1" + "}" * 5_000),
        "a deep key": holding(f"{'.'.join('a' * 3_000)} = 1"),
        "no TOML": holding("]["),
        "itself": holding('extends = "odd.toml"'),
        "tasks of numbers": holding('extends = "shapes/barm"\ntasks = 3'),
        "a table for a number": holding('extends = "shapes/barm"\n[seed]\na = 1'),
    }
    for name, make in {**PLACES, **texts}.items():
        yield Case("recipes", f"recipe: {name}", ("data",), _at("odd.toml", make), train)
        yield Case("recipes", f"grid: {name}", ("data",), _at("odd.toml", make), grid)
    nothing = lambda folder: None  # noqa: E731
    for setting in ("a=" + "[" * 50_000, ".".join("a" * 3_000) + "=1", "base=[[[]]]", "=1", "base.crop", "data.root=3"):
        yield Case("recipes", f"--set {setting[:12]}", ("data",), nothing, (*TRAIN, "--set", setting))


def _sizes() -> Iterator[Case]:
    """Numbers that no machine has the memory for."""
    huge = (
        "base.crop=1000000",
        "base.crop=100000000000",
        "base.batch_size=1000000",
        "base.batch_size=1000000000000",
        "base.scale=[1e6,1e6]",
        "base.scale=[1e300,1e300]",
        "increment.crop=1000000",
        "increment.batch_size=10000000",
        "evaluation.crop=1000000",
        "model.channels=1000000000",
        "model.channels=10000000",
        "model.channels=1000000000000000000000",
        f"base.crop={10**400}",
    )
    for setting in huge:
        yield Case("sizes", f"train {setting[:40]}", ("data",), lambda folder: None, (*TRAIN, *SMALL, "--set", setting))
    words = (*TRAIN, *SMALL, "--step", "0", "--set", "evaluation.batch_size=1000000", "--set", "base.crop=48")
    yield Case("sizes", "evaluation.batch_size of all images", ("data",), lambda folder: None, words, "taken")
    for old, new, outcome in (
        ("crop = 48", "crop = 10000000", "refused"),
        ("channels = 16", f"channels = {10**9}", "either"),
    ):

        def put(folder: Path, old: str = old, new: str = new) -> None:
            config = folder / "run/config.toml"
            config.write_text(config.read_text("utf-8").replace(old, new), "utf-8")

        yield Case("sizes", f"evaluate with {new}", ("run", "data"), put, ("evaluate", "run", "--quiet"), outcome)


def _pickles() -> Iterator[Case]:
    """Checkpoints, weights, states of steps that are not finished."""
    whole = torch.zeros(2)
    contents: dict[str, Any] = {
        "a key that is a number": {"model_state": {1: 2}},
        "a value that is a number": {"model_state": {"a": 2}},
        "no state": {"other": {}},
        "a list": [1, 2],
        "a tensor": whole,
        "an empty state": {"model_state": {}},
        "a state of text": {"model_state": "x"},
        "tensors of other names": {"model_state": {"a": whole}},
        "state_dict of numbers": {"state_dict": {1: 2}},
        "state_dict of a list": {"state_dict": [whole]},
        "a sparse tensor": {"model_state": {"a": whole.to_sparse()}},
    }
    imports = ("weights", "import", "odd.pth", "--out", "new", "--dataset", "voc", "--task", "15-1", "--step", "0")
    backbone = (*TRAIN, *SMALL, "--set", "model.weights=odd.pth")
    for name, content in contents.items():
        put = lambda folder, c=content: torch.save(c, folder / "odd.pth")  # noqa: E731
        yield Case("checkpoints", f"import: {name}", (), put, imports)
        yield Case("checkpoints", f"model.weights: {name}", ("data",), put, backbone)
    for name, make in PLACES.items():
        yield Case("checkpoints", f"import: {name}", (), _at("odd.pth", make), imports)
        yield Case("checkpoints", f"model.weights: {name}", ("data",), _at("odd.pth", make), backbone)
    state = "stopped/.step01.partial/trainer.pt"
    for name, make in PLACES.items():
        outcome: Outcome = "either" if name == "link to nowhere" else "refused"
        yield Case("trainer state", name, ("stopped", "data"), _at(state, make), RESUME, outcome)
    for name, change in _states().items():

        def spoil(folder: Path, change: Callable[[dict[str, Any]], object] = change) -> None:
            content = torch.load(folder / state, weights_only=True)
            change(content)
            torch.save(content, folder / state)

        yield Case("trainer state", name, ("stopped", "data"), spoil, RESUME)


def _states() -> dict[str, Callable[[dict[str, Any]], object]]:
    def momentum(state: dict[str, Any]) -> dict[str, Any]:
        first: dict[str, Any] = next(iter(state["optimizer"]["state"].values()))
        return first

    def first(state: dict[str, Any]) -> str:
        return next(iter(state["model"]))

    return {
        **{
            f"without {k}": lambda s, k=k: s.pop(k)
            for k in ("iteration", "model", "optimizer", "method", "memory", "skipped", "scaler")
        },
        "iteration of text": lambda s: s.update(iteration="3"),
        "iteration beyond the end": lambda s: s.update(iteration=10**9),
        "negative iteration": lambda s: s.update(iteration=-1),
        "a model of another shape": lambda s: s["model"].update({first(s): torch.zeros(3)}),
        "a model without a tensor": lambda s: s["model"].pop(first(s)),
        "a model with more": lambda s: s["model"].update(more=torch.zeros(1)),
        "a model of numbers": lambda s: s["model"].update({first(s): 3}),
        "momentum of another shape": lambda s: momentum(s).update(momentum_buffer=torch.zeros(7)),
        "no momentum": lambda s: momentum(s).clear(),
        "no groups": lambda s: s["optimizer"].pop("param_groups"),
        "another group": lambda s: s["optimizer"]["param_groups"].pop(),
        "an optimiser of numbers": lambda s: s["optimizer"].update(state=3),
        "memory of numbers": lambda s: s.update(memory=[1, 2]),
    }


def _safetensors() -> Iterator[Case]:
    """Files of one model, with any header."""

    def described(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
        def put(folder: Path) -> None:
            from safetensors import safe_open

            with safe_open(folder / "model.safetensors", framework="pt") as file:
                about = json.loads(file.metadata()["barm"])
                tensors = {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118
            text = change(about)
            (folder / "odd.safetensors").write_bytes(
                save(tensors, {"barm": text if isinstance(text, str) else json.dumps(about)})
            )

        return put

    words = ("export", "odd.safetensors", "--out", "new.safetensors", "--quiet")
    header = lambda text: (len(text)).to_bytes(8, "little") + text  # noqa: E731
    texts: dict[str, Hostile] = {
        **PLACES,
        "a header beyond the file": holding((2**60).to_bytes(8, "little") + b"{}"),
        "a header of deep tables": holding(header(b'{"a":' * 5_000 + b"1" + b"}" * 5_000)),
        "a tensor beyond the file": holding(header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}')),
        "a tensor of negative size": holding(header(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}')),
        "an unknown type": holding(header(b'{"a":{"dtype":"X9","shape":[1],"data_offsets":[0,4]}}') + bytes(4)),
        "no tensors": holding(header(b"{}")),
    }
    for name, make in texts.items():
        yield Case("safetensors", name, (), _at("odd.safetensors", make), words)
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "a description of deep lists": lambda about: "[" * 100_000,
        "a description of text": lambda about: '"x"',
        "no method": lambda about: about["trained"].pop("method") and None,
        "a billion channels": lambda about: about["trained"]["model"].update(channels=10**9),
        "another number of classes": lambda about: about["trained"]["groups"].append([200]),
        "a newer format": lambda about: about.update(format=99),
        "a step of text": lambda about: about.update(step="x"),
        "names of numbers": lambda about: about["trained"]["classes"][1].update(name=3),
    }
    for name, change in changes.items():
        yield Case("safetensors", name, ("model.safetensors",), described(change), words)


NAMES = (
    "[/]",
    "[red]x",
    "[bold",
    ":smile:",
    "=1+1",
    "a|b",
    "$x$ and $",
    "<script>",
    "\\",
    "100 %",
    "{{ 7 }}",
    "--help",
    "`rm`",
)


def _names() -> Iterator[Case]:
    """Class names that some language would read otherwise; they are names like others."""

    def listed(folder: Path, name: str) -> None:
        (folder / "own/classes.txt").write_text(f"{name}\nb\nc\nd\n", "utf-8")

    def renamed(folder: Path, name: str) -> None:
        for step in (folder / "run").glob("step*"):
            for file in ("method.json", "metrics.json"):
                text = (step / file).read_text("utf-8")
                first = json.loads((step / "method.json").read_text("utf-8"))["classes"][1]["name"]
                changed = text.replace(json.dumps(first), json.dumps(name)) if file == "metrics.json" else text
                (step / file).write_text(changed, "utf-8")
            about = json.loads((step / "method.json").read_text("utf-8"))
            about["classes"][1]["name"] = name
            (step / "method.json").write_text(json.dumps(about), "utf-8")

    for name in NAMES:
        check = ("data", "check", "own")
        yield Case("names", f"check {name}", ("own",), lambda folder, n=name: listed(folder, n), check, "taken")
        report = ("report", "run", "--out", "page.html", "--images", "0")
        yield Case("names", f"report {name}", ("run",), lambda folder, n=name: renamed(folder, n), report, "taken")
        words = ("extend", "run", "--data", "own", "--classes", name, "--out", "new", "--quiet")
        yield Case(
            "names", f"extend {name}", ("run", "own", "data"), lambda folder, n=name: listed(folder, n), words, "either"
        )


def _outputs() -> Iterator[Case]:
    """What stands where something is to be written."""
    for name, make in PLACES.items():
        if name == "folder":
            continue
        words = (*TRAIN[:-2], "odd", "--quiet", *SMALL)
        yield Case("outputs", f"train into {name}", ("data",), _at("odd", make), words, "either")
        words = ("export", "run", "--out", "odd.safetensors", "--quiet")
        yield Case("outputs", f"export over {name}", ("run",), _at("odd.safetensors", make), words, "either")
        yield Case("outputs", f"export beside {name}", ("run",), _at("odd.safetensors.tmp", make), words, "either")
    loop = _at("loop", PLACES["link to itself"])
    for words in (
        ("data", "check", "loop"),
        (*TRAIN[:3], "--data", "loop", "--out", "new"),
        (*TRAIN[:5], "--out", "new", "--start-from", "loop", *SMALL),
        ("evaluate", "loop"),
        ("compare", "loop"),
        ("report", "loop"),
        ("predict", "run", "loop", "--out", "seen"),
        ("predict", "loop", "x.jpg", "--out", "seen"),
        ("extend", "run", "--data", "loop", "--classes", "x", "--out", "new"),
        ("compare", "--grid", "loop.toml"),
    ):
        yield Case("outputs", f"a folder that links to itself: {words[0]}", ("run", "data"), loop, words)
    nothing = lambda folder: None  # noqa: E731
    for name in ("x" * 300, "a/" * 200 + "b", "\udcff"):
        words = (*TRAIN[:5], "--out", name, "--quiet", *SMALL)
        yield Case("outputs", f"train into {name[:6]!r}", ("data",), nothing, words, "either")
        yield Case("outputs", f"evaluate {name[:6]!r}", (), nothing, ("evaluate", name))


def cases() -> list[Case]:
    """All of them."""
    several = (
        _files_of_runs,
        _values_in_runs,
        _data,
        _index,
        _recipes,
        _sizes,
        _pickles,
        _safetensors,
        _names,
        _outputs,
    )
    return [case for make in several for case in make()]


def lay_out(case: Case, material: Path, folder: Path) -> None:
    """Copy what a case needs into its folder, and put the hostile file there."""
    for name in case.needs:
        source, target = material / name, folder / name
        if name == "indexed":
            shutil.copytree(material / "cache", folder / "cache", dirs_exist_ok=True)
        elif source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    for config in (folder / run / "config.toml" for run in ("run", "stopped")):
        if config.is_file():
            config.write_text(config.read_text("utf-8").replace(str(material), str(folder)), "utf-8")
    case.prepare(folder)
    reseal(folder)  # checksums that do not fit would refuse most files
