"""Pretrained weights of timm and of the Hugging Face hub, by name: the file, its digest, and what belongs to it.

A file is looked for in the data store, then in the cache of huggingface_hub, and downloaded to that cache otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.common import paths
from core.common.extras import library
from core.models.preset import of_timm
from core.models.pretrained import Origin, digest, refused

HUB, FOLDER = "hf-hub:", "local-dir:"  # as in timm.create_model
FILES = ("model.safetensors", "pytorch_model.bin")  # names of the file in a folder in the layout of the hub
CONFIG = "config.json"
Get = Callable[[str], Path | None]  # name of a file -> the file, None if it does not exist


@dataclass(frozen=True)
class TimmOrigin(Origin):
    """Weights that timm itself reads, with its pretrained_cfg."""

    cfg: Mapping[str, Any] | None = None


def find(timm: Any, name: str, wanted: str) -> TimmOrigin | None:
    """Resolve `model.weights` of a network of timm; None if it is no name of timm's or the hub's.

    wanted: DEFAULT, a tag of the network (a1_in1k), hf-hub:OWNER/NAME, or local-dir:PATH with config.json and the
    weights. Raises UserError in one line.
    """
    architecture, _, own = name.partition(".")
    if wanted.startswith(FOLDER):
        folder = Path(wanted.removeprefix(FOLDER)).expanduser()
        return _configured(timm, architecture, wanted, lambda file: folder / file)
    if wanted.startswith(HUB):
        return _configured(timm, architecture, wanted, partial(_of_hub, wanted.removeprefix(HUB)))
    known = tags(timm, architecture)
    if wanted not in known:
        return None
    tag = own if wanted == "DEFAULT" else wanted
    cfg = timm.get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture).to_dict()
    title = f"{architecture}.{cfg['tag']} of timm"
    if not cfg.get("hf_hub_id"):
        raise refused(f"{title} is not on the Hugging Face hub; name a file")
    files = (cfg["hf_hub_filename"],) if cfg.get("hf_hub_filename") else FILES
    return _origin(title, _first(partial(_of_hub, cfg["hf_hub_id"]), files, title), cfg)


def tags(timm: Any, name: str) -> list[str]:
    """The names of timm's weights of a network: DEFAULT and its tags; empty if there are none."""
    architecture = name.partition(".")[0]
    found = [full.partition(".") for full in timm.list_pretrained(f"{architecture}*")]
    own = [tag for base, _, tag in found if base == architecture]
    return ["DEFAULT", *own] if own else []


def _configured(timm: Any, architecture: str, wanted: str, get: Get) -> TimmOrigin:
    """The weights in a folder in the layout of the hub, of the network that its config.json names."""
    config = get(CONFIG)
    try:
        told = json.loads(config.read_text()) if config else {}
        given = {**told, **told.get("pretrained_cfg", {})}
        known = {field.name: field.default for field in fields(timm.models.PretrainedCfg)}
        cfg = known | {name: value for name, value in given.items() if name in known}
        cfg["num_classes"] = told.get("num_classes", cfg["num_classes"])
        found = str(told["architecture"]).partition(".")[0]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise refused(f"{wanted} has no {CONFIG} that names the architecture of timm ({reason})") from None
    if found != architecture:
        raise refused(f"{wanted} has weights of {found}, not of {architecture}; use --model.name {found}")
    return _origin(wanted, _first(get, FILES, wanted), cfg)


def _origin(title: str, path: Path, cfg: Mapping[str, Any]) -> TimmOrigin:
    data = library("timm.data", "timm", title)
    names = cfg.get("label_names")
    if names is None and (subset := data.infer_imagenet_subset(dict(cfg))):
        names = data.ImageNetInfo(subset).label_names()
    # without names, the head is initialized anew: that the classes are the same is not known
    return TimmOrigin(title, path, digest(path), tuple(names or ()), of_timm(cfg), cfg)


def _first(get: Get, files: Sequence[str], title: str) -> Path:
    """The first of these files that exists."""
    paths = (get(file) for file in files)
    if found := next((path for path in paths if path and path.is_file()), None):
        return found
    raise refused(f"{title} has no file {' or '.join(files)}")


def _of_hub(repository: str, file: str) -> Path | None:
    """A file of the hub, downloaded if need be; None if the repository has no such file."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    identifier, _, revision = repository.partition("@")
    stored = paths.store() / f"{identifier.replace('/', '--')}--{file}"
    if stored.is_file():
        return stored
    try:
        return Path(huggingface_hub.hf_hub_download(identifier, file, revision=revision or None))
    except Exception as error:  # of the network, the hub, or the disk
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        advice = f"put the file at {stored}, or run `hf download {identifier} {file}` where there is a network"
        cache = huggingface_hub.constants.HF_HUB_CACHE
        raise refused(
            f"{file} of {identifier} is not in the cache of huggingface_hub, and downloading it failed ({reason}); "
            f"{advice} and copy its cache to {cache}"
        ) from None


def read(timm: Any, name: str, origin: TimmOrigin, image_size: tuple[int, int] | None) -> dict[str, torch.Tensor]:
    """The weights as timm loads them: names and position embeddings converted to the network as it is now.

    image_size: (height, width) for a network that is made for one. Raises UserError.
    """
    assert origin.cfg is not None
    here = {"file": str(origin.path), "source": None, "hf_hub_id": None, "url": None, "custom_load": False}
    made = {"num_classes": origin.cfg["num_classes"], "in_chans": origin.cfg["input_size"][0], "img_size": image_size}
    try:
        cfg = {**origin.cfg, **here}
        network: torch.nn.Module = timm.create_model(
            name.partition(".")[0], pretrained=True, pretrained_cfg=cfg, **made
        )
    except Exception as error:  # whatever a damaged file leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise refused(f"timm cannot load {origin.path} into {name}: {reason}") from None
    return dict(network.state_dict())
