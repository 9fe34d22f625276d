"""What training starts from: a fresh adapter, or one that was trained before (`model.adapter.start`).

A folder is looked at twice: what its config and the header of its weights say is compared with the recipe before any
weight is read, and `GroupedAdapter.read` checks the tensors themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from fedloom.errors import UserError, nearest
from fedloom.model import peft_format
from fedloom.model.adapters import bottleneck, sparse
from fedloom.model.adapters.low_rank_start import low_rank_start
from fedloom.model.grouped_adapter import PREFIX, Adapter, GroupedAdapter, Layout, Shapes
from fedloom.recipe.adapter_schema import AdapterKind, LowRank, Startable

KEY = "model.adapter.start"
# The config and the weights of each format of folder.
FORMATS = {
    peft_format.CONFIG: peft_format.WEIGHTS,
    bottleneck.CONFIG: bottleneck.WEIGHTS,
    sparse.CONFIG: sparse.WEIGHTS,
}
PEFT_KINDS = {
    "IA3": "ia3",
    "PROMPT_TUNING": "prompt_tuning",
    "P_TUNING": "p_tuning",
    "PREFIX_TUNING": "prefix_tuning",
}
# Of a recipe's adapter section, what else a folder's config says, under PEFT's names.
PEFT_KEYS = {
    "rank": "r",
    "alpha": "lora_alpha",
    "virtual_tokens": "num_virtual_tokens",
    "hidden_size": "encoder_hidden_size",
}
OWN_KEYS = ("size", "activation", "after_attention", "share", "mask_seed")


@dataclass(frozen=True)
class Stored:
    """What a folder says of its adapter, but for the numbers.

    Args:
        kind: as a recipe calls it.
        keys: of a recipe's adapter section, those that the folder's config has.
        shapes: of its tensors, by the names they are stored under.
    """

    kind: str
    keys: Mapping[str, Any]
    shapes: Shapes


def start_of(config: AdapterKind) -> Path | None:
    """The folder that training starts from.

    Args:
        config: the recipe's adapter section.

    Returns:
        Its path, relative to the current folder; None for a fresh adapter.
    """
    if not isinstance(config, Startable) or config.start is None:
        return None
    return Path(config.start).expanduser()


def check_start(config: AdapterKind, layout: Layout, head: Collection[str]) -> None:
    """Check that the folder that training starts from holds such an adapter, without reading a weight.

    Args:
        config: the recipe's adapter section.
        layout: what its adapters consist of.
        head: those of its tensors that are a classification head, whose shapes follow from the data.

    Raises:
        UserError: where it is missing or unreadable, or of another kind, rank, size, or on other layers.
    """
    folder = start_of(config)
    if folder is None:
        return
    stored = _stored(folder)
    decomposed = stored.kind == "sparse" and isinstance(config, LowRank)
    if stored.kind != config.kind and not decomposed:
        raise UserError(
            f"model.adapter.kind: {config.kind}, but {KEY}: {str(folder)!r} holds an adapter of kind {stored.kind}"
        )
    for key, value in stored.keys.items():
        if not decomposed and key in type(config).model_fields and getattr(config, key) != value:
            raise UserError(
                f"model.adapter.{key}: {getattr(config, key)!r}, but {KEY}: {str(folder)!r} holds one with {value!r}"
            )
    own = _without_head(folder, stored, head)
    _check_layers(folder, own, layout.layers)
    for name, shape in own.items():
        if not decomposed and layout.shapes.get(name, shape) != shape:
            raise UserError(
                f"{KEY}: {str(folder)!r}: {name} has shape {list(shape)}, expected {list(layout.shapes[name])}"
            )


def first_adapter(grouped: GroupedAdapter[Any], config: AdapterKind, seed: int) -> Adapter:
    """What every arm of a run starts from.

    Args:
        grouped: the adapters on the base, which runs that start from different ones may share.
        config: the recipe's adapter section.
        seed: the recipe's.

    Returns:
        The adapter in the recipe's folder, or a fresh one; fp32 tensors on the CPU.

    Raises:
        UserError: where the folder holds none that fits.
    """
    folder = start_of(config)
    if folder is None:
        return grouped.initial(seed)
    if isinstance(config, LowRank) and (folder / sparse.CONFIG).is_file():
        changes, positions = sparse.read_sparse(folder)
        head = {PREFIX + name: value for name, value in changes.items() if not name.endswith(sparse.VALUES)}
        sparse.check_shapes(head, grouped.head_shapes, folder)
        return low_rank_start(changes, positions, grouped.own_initial(seed), config.scale) | head
    return grouped.read(folder)


def start_fingerprint(config: AdapterKind) -> dict[str, str]:
    """Hash the folder that training starts from: its config and all of its weights, which are few.

    Args:
        config: the recipe's adapter section.

    Returns:
        "start": SHA-256 in hexadecimal; nothing where it starts from a fresh adapter.

    Raises:
        UserError: where the folder holds no adapter.
    """
    folder = start_of(config)
    if folder is None:
        return {}
    digest = hashlib.sha256()
    for name in _files(folder):
        digest.update(f"\x1f{name}\x1f".encode())
        digest.update((folder / name).read_bytes())
    return {"start": digest.hexdigest()}


def _files(folder: Path) -> tuple[str, str]:
    """The names of the config and the weights of a folder."""
    if not folder.is_dir():
        close = nearest(folder.name, [other.name for other in folder.parent.glob("*/")])
        hint = f"did you mean {str(folder.with_name(close))!r}?" if close else None
        if hint is None and not folder.is_absolute():
            hint = f"folders are looked for in the current one, {Path.cwd()}"
        raise UserError(f"{KEY}: no such folder: {str(folder)!r}", hint=hint)
    found = [config for config in FORMATS if (folder / config).is_file()]
    if not found:
        inside = folder / "adapter"
        raise UserError(
            f"{KEY}: {str(folder)!r} holds no adapter: it has none of {', '.join(FORMATS)}",
            hint=f"did you mean {str(inside)!r}?" if inside.is_dir() else None,
        )
    weights = FORMATS[found[0]]
    if not (folder / weights).is_file():
        raise UserError(
            f"{KEY}: {str(folder)!r} has no {weights}",
            hint="pickled *.bin weights are never read: save them as safetensors"
            if any(folder.glob("*.bin"))
            else None,
        )
    return found[0], weights


def _stored(folder: Path) -> Stored:
    config, weights = _files(folder)
    try:
        settings = json.loads((folder / config).read_text(encoding="utf-8"))
        with safetensors.safe_open(folder / weights, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{KEY}: {str(folder)!r} is not readable: {error}") from None
    if not isinstance(settings, dict):
        raise UserError(f"{KEY}: {folder / config} holds no settings of an adapter")
    if config == peft_format.CONFIG:
        if settings.get("rank_pattern") or settings.get("alpha_pattern"):
            raise UserError(
                f"{KEY}: {str(folder)!r} has layers of several ranks or scales (rank_pattern, alpha_pattern), must "
                "have one: what an algorithm has added to the base model lies in such further rows, and has no place "
                "in another run's adapter"
            )
        keys = {key: settings[name] for key, name in PEFT_KEYS.items() if settings.get(name) is not None}
        return Stored(_peft_kind(folder, settings), keys, shapes)
    keys = {key: settings[key] for key in OWN_KEYS if key in settings}
    return Stored(str(settings.get("kind")), keys, shapes)


def _peft_kind(folder: Path, settings: Mapping[str, Any]) -> str:
    kind = settings.get("peft_type")
    if kind != "LORA":
        if kind not in PEFT_KINDS:
            raise UserError(
                f"{KEY}: {str(folder)!r} holds an adapter of PEFT's kind {kind}, must be one of: "
                f"{', '.join(['LORA', *PEFT_KINDS])}"
            )
        return PEFT_KINDS[kind]
    marks = {"lora_bias": "bitfit", "use_dora": "dora", "use_rslora": "rslora"}
    return next((name for mark, name in marks.items() if settings.get(mark)), "lora")


def _without_head(folder: Path, stored: Stored, head: Collection[str]) -> Shapes:
    """The tensors of a folder without those of a classification head, which has to be there."""
    # PEFT's names have a prefix, those of Fedloom's own formats have none.
    names = {name.removeprefix(PREFIX) for name in head}
    found = {name.removeprefix(PREFIX): name for name in stored.shapes}
    if missing := sorted(names - found.keys()):
        raise UserError(f"{KEY}: {str(folder)!r} has no classification head ({missing[0]}), which the recipe trains")
    return {name: stored.shapes[name] for bare, name in found.items() if bare not in names}


def _check_layers(folder: Path, shapes: Shapes, layers: list[str]) -> None:
    """Compare the layers that a folder's tensors are for with those of the recipe."""
    found = {_layer(name) for name in shapes} if layers else set[str]()
    if surplus := sorted(found - set(layers)):
        raise UserError(
            f"model.adapter: {KEY}: {str(folder)!r} has an adapter on {surplus[0]}, which the recipe's targets and "
            "layers leave out"
        )
    if missing := [layer for layer in layers if layer not in found]:
        raise UserError(
            f"model.adapter: targets and layers name {missing[0]}, on which {KEY}: {str(folder)!r} has no adapter"
        )


def _layer(name: str) -> str:
    """The layer that a stored tensor is for: what stands before the part that says which tensor it is."""
    name = name.removeprefix(PREFIX)
    for part in (".lora_", ".ia3_l", ".sparse.", ".bottleneck."):
        name = name.partition(part)[0]
    return name
