"""Fetch a model from a hub, and report any error of the hub in one line."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from barm.errors import UserError

MODEL = "model.safetensors"
OTHERS = ("*.json", "*.safetensors", "classes.txt")
SCHEME = re.compile(r"^hf:/{1,2}")  # a Path makes one slash of two
UNREACHABLE = ("Connect", "Timeout", "LocalEntryNotFound", "NetworkError", "ProxyError", "RemoteProtocol")


def is_address(where: Path | str) -> bool:
    """Whether an address is that of a repository on a hub.

    >>> is_address("hf://owner/name"), is_address(Path("hf://owner/name")), is_address("runs/demo")
    (True, True, False)
    """
    return SCHEME.match(str(where)) is not None


def fetch(address: Path | str) -> Path:
    """Fetch the model file of a repository, or take it from the cache of huggingface_hub.

    Args:
        address: ``hf://owner/name`` or ``hf://owner/name@revision`` (a branch, a tag or a commit).

    Raises:
        UserError: no network, no such repository or revision, no permission, or no model of barm in it.
    """
    folder = fetch_folder(address, [MODEL])
    if not (folder / MODEL).is_file():
        name = SCHEME.sub("", str(address))
        raise UserError(f"{name} is no model of barm: it has no {MODEL}; expected a repository that `barm push` made")
    return folder / MODEL


def fetch_folder(address: Path | str, patterns: Sequence[str] = OTHERS) -> Path:
    """Fetch the files of a repository whose names match, or take them from the cache of huggingface_hub.

    Args:
        address: as for `fetch`.
        patterns: of the names; by default what other libraries need to load a network.

    Raises:
        UserError: no network, no such repository or revision, or no permission.
    """
    from huggingface_hub import constants, snapshot_download

    from barm.models.download import ask, head_hub

    name, _, revision = SCHEME.sub("", str(address)).partition("@")
    # asked once: the library itself asks again and again, for half a minute
    silent = not constants.HF_HUB_OFFLINE and ask(constants.ENDPOINT, head_hub) is not None
    with told(name, revision):
        return Path(
            snapshot_download(name, revision=revision or None, allow_patterns=[*patterns], local_files_only=silent)
        )


@contextmanager
def told(name: str, revision: str = "") -> Iterator[None]:
    """Turn exceptions of huggingface_hub into one line."""
    from huggingface_hub import constants

    try:
        yield
    except UserError:
        raise
    except Exception as error:  # its releases raise errors of requests, httpx and httpx2 besides their own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EDQUOT, errno.EROFS):
            raise
        raise UserError(_line(error, name, revision, constants.ENDPOINT)) from error


def _line(error: Exception, name: str, revision: str, hub: str) -> str:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if "HFValidationError" in kinds:
        return f"'{name}' is no name of a repository: expected owner/name, such as hf://owner/name@revision"
    if "RevisionNotFoundError" in kinds:
        return f"{name} has no revision '{revision}' on {hub}: give a branch, a tag or a commit, or none for the newest"
    if "GatedRepoError" in kinds or status == 403:
        return f"{hub} does not permit this on {name}: ask for access on its page, or log in as somebody who may"
    if "RepositoryNotFoundError" in kinds and "LocalTokenNotFoundError" not in kinds:
        return f"no repository {name} on {hub}: check the name; if it is private, run `hf auth login` or set HF_TOKEN"
    if "LocalTokenNotFoundError" in kinds or status == 401:
        return f"not logged in to {hub}, or the token is not valid: run `hf auth login`, set HF_TOKEN, or pass --token"
    if "OfflineModeIsEnabled" in kinds:
        return f"HF_HUB_OFFLINE is set and {name} is not in the cache: unset it to reach {hub}"
    if any(word in kind for word in UNREACHABLE for kind in kinds):
        return (
            f"{hub} cannot be reached and {name} is not in the cache: check the network, or HF_ENDPOINT; "
            "where the network is slow, a larger HF_HUB_ETAG_TIMEOUT (seconds) waits longer"
        )
    return f"{hub} refused {name}: {' '.join(str(error).split())[:160] or type(error).__name__}"
