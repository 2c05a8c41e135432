"""Forms of a run's JSON files, against which they are checked when they are read, whoever wrote them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from barm.words import count

Name = Annotated[str, StringConstraints(strict=True, min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
Byte = Annotated[int, Field(strict=True, ge=0, le=255)]
Position = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**62)]
Crc = Annotated[str, StringConstraints(strict=True, pattern=r"^[0-9a-f]{8}$")]
Score = FiniteFloat | None

STATE = {  # of a step that is not finished: what `RunDirectory.save_partial` is given
    "iteration": int,
    "skipped": int,
    "skipped_in_a_row": int,
    "memory": list,
    **dict.fromkeys(("model", "optimizer", "scaler", "method"), dict),
}


class _Form(BaseModel):
    model_config = ConfigDict(extra="allow")


class ClassForm(_Form):
    """A class: its id in the data set's masks, its name, its colour."""

    id: Byte
    name: Name
    colour: Annotated[list[Byte], Field(min_length=3, max_length=3)]


class MethodForm(_Form):
    """``method.json``: the record from which a step is loaded again; a class per channel, in learning order."""

    method: dict[str, Any]
    model: dict[str, Any]
    groups: list[Annotated[list[Byte], Field(min_length=1)]] = Field(min_length=1)
    num_steps: Annotated[int, Field(strict=True, ge=1)] = 1
    classes: list[ClassForm]

    @model_validator(mode="after")
    def _a_class_per_channel(self) -> MethodForm:
        ids = [0, *(i for group in self.groups for i in group)]
        if [c.id for c in self.classes] != ids or len(set(ids)) != len(ids):
            raise ValueError("classes and groups do not name the same ids, each once")
        return self


class MetricsForm(_Form):
    """``metrics.json``: scores as fractions, None for those that were not measured."""

    step: Position
    learned: list[Name]
    miou: dict[str, Score]
    average_miou: Score
    forgetting: Score
    class_iou: dict[Name, Score]

    @model_validator(mode="after")
    def _both_means(self) -> MetricsForm:
        if not self.miou.keys() >= {"old", "all"}:
            raise ValueError("miou lacks 'old' or 'all'")
        return self


class ExemplarForm(_Form):
    """A line of ``memory.json``: an image's name, which may be any file's name, and its channels."""

    name: Annotated[str, StringConstraints(strict=True, min_length=1)]
    channels: list[Byte]


class ImageForm(_Form):
    """An image in ``pictures.json``; digests as the split has them."""

    size: list[Position] | None
    classes: list[Byte]


class SplitForm(_Form):
    """A split in ``pictures.json``."""

    names: list[Name]
    in_masks: list[Name]
    pictures: dict[str, ImageForm]


class ImagesForm(_Form):
    """``pictures.json``: images on which a step was trained, unless another run trained it, and measured."""

    train: SplitForm | None = None
    measured: list[SplitForm]


class ExtensionForm(_Form):
    """``extension.json``, in the part that is read again."""

    origin: Name = Field(alias="from")
    step: Position
    learned: list[Name]
    agreement: dict[str, Annotated[float, Field(ge=0, le=1)] | None] | None = None


class ChecksumsForm(_Form):
    """``checksums.json``: the accepted CRC-32 of every file, and that of this table itself."""

    format: Annotated[int, Field(strict=True, ge=1)]
    files: dict[Name, Annotated[list[Crc], Field(min_length=1)]]
    own: Crc


FORMS: dict[str, TypeAdapter[Any]] = {
    "method.json": TypeAdapter(MethodForm),
    "metrics.json": TypeAdapter(MetricsForm),
    "counts.json": TypeAdapter(list[list[Count]]),
    "pictures.json": TypeAdapter(ImagesForm),
    "memory.json": TypeAdapter(list[ExemplarForm]),
    "checksums.json": TypeAdapter(ChecksumsForm),
    "extension.json": TypeAdapter(ExtensionForm),
}


def misfit(name: str, value: Any) -> str | None:
    """Describe the error in a value that was read from a file of this name, or None.

    >>> misfit("counts.json", [[1, 0], [2]])
    '2 rows, but row 1 has 1 column'
    >>> misfit("memory.json", [{"name": "a"}])
    '0.channels: Field required'
    """
    try:
        FORMS[name].validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        told = str(first["msg"]).removeprefix("Value error, ")
        return f"{place}: {told}" if place else told
    if name == "counts.json":
        uneven = next((i for i, row in enumerate(value) if len(row) != len(value)), None)
        if uneven is not None:
            return f"{count(len(value), 'rows')}, but row {uneven} has {count(len(value[uneven]), 'columns')}"
    return None


def misfit_state(state: Any) -> str | None:
    """Describe what in the state of an unfinished step is no part of one, or None."""
    for name, kind in STATE.items():
        if not isinstance(state, dict) or not isinstance(state.get(name), kind):
            return f"'{name}' is missing or no {kind.__name__}"
    wrong = misfit("memory.json", state["memory"])
    return None if wrong is None else f"its memory: {wrong}"
