"""Check that ImageNet weights are cached or can be downloaded, with one quick request before long retries."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import timm
import timm.models._hub
import torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]
from torchvision.models import MobileNet_V2_Weights

from barm.errors import UserError
from barm.escaping import word

PATIENCE = 4.0  # seconds for an answer, unless HF_HUB_ETAG_TIMEOUT allows more
DOWN = (502, 503, 504)  # statuses of a server behind which nobody works
FILES = ("model.safetensors", "pytorch_model.bin")  # of a hub's repository, as timm looks for them
OLD_CACHE = "TIMM_USE_OLD_CACHE"  # of timm: its former cache goes before the hub
HUB = ("hf-hub:", "hf_hub:")  # before a repository in a backbone's name
CONFIG = "config.json"  # of such a repository
FOLDER = "local-dir:"  # before a folder in a backbone's name


class Origin(NamedTuple):
    """The origin of a backbone's weights.

    Attributes:
        address: the server that must answer.
        cached: the file of the cache that holds them; None without.
        hub: whether it is the Hugging Face Hub.
    """

    address: str
    cached: Path | None
    hub: bool


def check_reachable(name: str) -> None:
    """Check within `patience` seconds that pretrained weights are cached or can be downloaded.

    Args:
        name: of the backbone, as in `create_backbone`; of an unknown one nothing is said.

    Raises:
        UserError: names the backbone, who was asked, and what to do.
    """
    origin = find_origin(name)
    if origin is None or origin.cached is not None:
        return
    if origin.hub and constants.HF_HUB_OFFLINE:
        raise _out_of_reach(name, "HF_HUB_OFFLINE is set")
    found = ask(origin.address, head_hub if origin.hub else _head)
    if found is not None:
        raise _out_of_reach(name, f"{origin.address} cannot be reached ({found})")


def find_origin(name: str) -> Origin | None:
    """Find the origin of a backbone's weights; None if it is unknown."""
    if name == "deeplab_mobilenetv2":
        return _from_url(MobileNet_V2_Weights.IMAGENET1K_V1.url)
    if name.startswith(HUB):
        return _from_hub(name[len(HUB[0]) :], FILES)
    known: Any = timm.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    if known is None or os.environ.get(OLD_CACHE):
        return None
    if known.hf_hub_id:
        return _from_hub(known.hf_hub_id, (known.hf_hub_filename,) if known.hf_hub_filename else FILES)
    return _from_url(known.url) if known.url else None


def cached_source(name: str, pretrained: bool) -> tuple[str, dict[str, Any]]:
    """Name and options for `timm.create_model` with which it uses the cache without asking for a newer version.

    Args:
        name: of the backbone, as in `create_backbone`.
        pretrained: whether weights are loaded.
    """
    if name.startswith(HUB):
        files = (CONFIG, *FILES) if pretrained else (CONFIG,)
        found = [_in_cache(name[len(HUB[0]) :], file) for file in files]
        folders = {path.parent for path in found if path is not None}
        whole = found[0] is not None and (not pretrained or any(found[1:])) and len(folders) == 1
        return (f"{FOLDER}{folders.pop()}", {}) if whole else (name, {})
    origin = find_origin(name) if pretrained else None
    if origin is None or not origin.hub or origin.cached is None:
        return name, {}
    return name, {"pretrained_cfg_overlay": {"file": str(origin.cached)}}


def check_named(name: Any, where: str, consent: str = "") -> None:
    """Refuse a backbone that a file names and that would be fetched: somebody else may have written the file.

    Args:
        name: of the backbone, as in `create_backbone`; of another type, nothing is said.
        where: the file.
        consent: another way to allow it.

    Raises:
        UserError: for an address that is not in the cache of the hub.
    """
    if not isinstance(name, str) or ":" not in name:  # timm takes no other name for an address
        return
    if not name.startswith(HUB):
        raise UserError(f"{where} names the backbone '{name}': expected the name of a network of timm")
    if cached_source(name, False)[0] == name:
        known = f"hf download {word(name[len(HUB[0]) :])} {CONFIG}"
        raise UserError(
            f"{where} names the backbone '{name}', which is not in the cache of the hub, and nothing that a file names "
            f"is fetched unasked: if you trust it, run `{known}`{consent}"
        )


def patience() -> float:
    """Time limit for an answer in seconds: `PATIENCE`, or HF_HUB_ETAG_TIMEOUT if it is larger."""
    asked = constants.HF_HUB_ETAG_TIMEOUT
    return PATIENCE if asked == constants.DEFAULT_ETAG_TIMEOUT else max(PATIENCE, float(asked))


def ask(address: str, head: Callable[[str, float], int]) -> str | None:
    """Ask whether an address answers: None, or the reason why not.

    In a thread, since the look-up of a name has no limit of its own.

    Args:
        address: ``http`` or ``https``.
        head: sends the request and returns the status; its second argument is a limit in seconds.
    """
    outcome: list[str | None] = []
    limit = patience()
    late = f"no answer within {limit:.0f} s; a larger HF_HUB_ETAG_TIMEOUT waits longer"

    def work() -> None:
        try:
            status = head(address, limit)
            outcome.append(f"it answers {status}" if status in DOWN else None)
        except Exception as error:  # whatever a library raises where nobody is
            words = _short(error)
            outcome.append(late if "timed out" in words.lower() else words)

    thread = threading.Thread(target=work, name="barm-ask", daemon=True)
    thread.start()
    thread.join(limit)
    return outcome[0] if outcome else late


def _from_hub(repository: str, files: tuple[str, ...]) -> Origin:
    cached = next((path for path in (_in_cache(repository, file) for file in files) if path), None)
    return Origin(constants.ENDPOINT, cached, hub=True)


def _in_cache(repository: str, file: str) -> Path | None:
    repository, _, revision = repository.partition("@")
    found = try_to_load_from_cache(repository, file, revision=revision or None)
    return Path(found) if isinstance(found, str) else None


def _from_url(url: str) -> Origin:
    parts = urlsplit(url)
    file = Path(torch.hub.get_dir(), "checkpoints", Path(parts.path).name)
    return Origin(f"{parts.scheme}://{parts.netloc}", file if file.is_file() else None, hub=False)


def head_hub(address: str, limit: float) -> int:
    """Send the request with the hub's own library, which knows proxies and certificates; returns the status."""
    return int(get_session().head(address, timeout=limit).status_code)


def _head(address: str, limit: float) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=limit) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:  # an answer all the same
        return error.code


def _short(error: Exception) -> str:
    words = " ".join(str(getattr(error, "reason", error)).split())[:120]
    return words or type(error).__name__


def _out_of_reach(name: str, why: str) -> UserError:
    return UserError(
        f"the ImageNet weights of '{name}' are not in the cache and {why}: connect to the network once, give a local "
        "file with --set model.weights=FILE, or train from scratch with --set model.pretrained=false"
    )
