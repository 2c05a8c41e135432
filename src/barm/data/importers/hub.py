"""Data sets of Hugging Face's hub, which are fetched into the cache of huggingface_hub before they are read."""

from __future__ import annotations

import re
from pathlib import Path

from barm.data.importers.huggingface import NAMES
from barm.errors import UserError
from barm.reading import short

ADDRESS = re.compile(r"(hf:/+)?([\w.-]+/[\w.-]+)")
CONVERTED = "refs/convert/parquet"  # a branch that the hub writes for data sets in other forms
SECONDS = 5  # for the first answer


def repository(source: Path, *, named: bool = False) -> str | None:
    """The data set ``owner/name`` that a source means; None if it means a folder.

    A path of two names means a data set of the hub only if not even its first folder is there.

    Args:
        source: as it was given: ``owner/name`` or ``hf://owner/name``.
        named: whether the format was said to be Hugging Face's.

    >>> repository(Path("hf://owner/name")), repository(Path("a/b/c"))
    ('owner/name', None)
    """
    found = ADDRESS.fullmatch(source.as_posix())
    if found is None or source.exists():
        return None
    return found[2] if found[1] or named or not source.parent.exists() else None


def fetch(name: str) -> Path:
    """Fetch the Parquet files of a data set, or take them from the cache.

    Raises:
        UserError: no network, no such data set, no permission, or no Parquet files in it.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    try:
        for revision in (None, CONVERTED):
            if constants.HF_HUB_OFFLINE:
                files = [".parquet"]
            else:
                about = HfApi().dataset_info(name, revision=revision, timeout=SECONDS)
                files = [each.rfilename for each in about.siblings or []]
            if any(file.endswith(".parquet") for file in files):
                patterns = ["*.parquet", f"*{NAMES}"]
                return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # its releases raise errors of several libraries for requests besides their own
        raise UserError(_why(error, name)) from error
    raise UserError(f"the data set {name} has no Parquet files: download it, and import the folder")


def _why(error: Exception, name: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "GatedRepoError" in kinds:
        return f"the data set {name} is not open to everyone: ask for access on its page, and run `hf auth login`"
    if "RevisionNotFoundError" in kinds:
        return f"the data set {name} has no Parquet files: download it, and import the folder"
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return (
            f"there is neither a folder {name} nor such a data set on the hub: check the name, or run `hf auth login`"
        )
    return f"there is no folder {name}, and the hub's data set cannot be fetched ({short(error)}): check the network"
