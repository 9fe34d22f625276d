"""Loading the frozen base model and its tokenizer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from fedloom.errors import UserError, nearest
from fedloom.model.attention import IMPLEMENTATION
from fedloom.model.classes import Classes, model_class, trained_head
from fedloom.recipe.adapter_schema import FullConfig
from fedloom.recipe.model_schema import ModelConfig

POCKET = Path(__file__).parent / "pocket"
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


def quiet_libraries() -> None:
    """Keep the loading libraries' own progress bars and retry notices out of what a person sees."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def resolve_base(base: str) -> str:
    """The folder or hub id behind the recipe's `model.base`.

    Args:
        base: a folder, a hub id, or "pocket".

    Returns:
        What transformers' from_pretrained takes.

    Raises:
        UserError: where it is neither, or a folder lacks a model's files.
    """
    if base == "pocket":
        return str(POCKET)
    path = Path(base).expanduser()
    if path.is_dir():
        _check_folder(path, base)
        return str(path)
    if path.exists():
        raise UserError(f"model.base: {base!r} is a file", hint="give the folder that holds config.json")
    # A path that starts in an existing folder was meant as a folder.
    if base.startswith((".", "/", "~")) or not HUB_ID.match(base) or path.parent.is_dir():
        names = {other.name: str(other) for other in path.parent.glob("*/")}
        if len(path.parts) == 1:
            names["pocket"] = "pocket"
        close = nearest(path.name, names)
        hint = f"did you mean {names[close]}?" if close else "a folder, a hub id owner/name, or pocket"
        if not close and not path.is_absolute():
            hint += f"; folders are looked for in the current one, {Path.cwd()}"
        raise UserError(f"model.base: no such folder: {base!r}", hint=hint)
    return base


@contextmanager
def loading(config: ModelConfig, what: str) -> Iterator[None]:
    """Turn whatever loading a model's files raises into one line.

    Args:
        config: the recipe's model section.
        what: what is loaded, for the message.

    Raises:
        UserError: with the first line of the reason.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers, its parsers and its hub client share no class of errors
        is_folder = config.base == "pocket" or Path(config.base).expanduser().is_dir()
        where = "" if is_folder else ", which is no folder here, from the hub"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
        raise UserError(f"model.base: can't load {what} of {config.base!r}{where}: {reason}") from None


def _check_folder(path: Path, base: str) -> None:
    config = path / "config.json"
    if not config.is_file():
        raise UserError(f"model.base: {base!r} has no config.json, so it is not a model folder")
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model.base: {config} is not valid JSON: {error}") from None
    if not any(path.glob("*.safetensors")):
        pickled = any(path.glob("*.bin"))
        raise UserError(
            f"model.base: {base!r} has no weights (*.safetensors)",
            hint="pickled *.bin weights are never read: convert them with save_pretrained" if pickled else None,
        )
    if not (path / "tokenizer_config.json").is_file() and not (path / "tokenizer.json").is_file():
        raise UserError(f"model.base: {base!r} has no tokenizer (tokenizer.json)")


def load_tokenizer(config: ModelConfig) -> Any:
    """The base model's tokenizer.

    Args:
        config: the recipe's model section.

    Returns:
        A transformers tokenizer.

    Raises:
        UserError: where it can't be loaded.
    """
    base = resolve_base(config.base)
    with loading(config, "the tokenizer"):
        return AutoTokenizer.from_pretrained(base)


def pick_device(device: str) -> torch.device:
    """The device a recipe's `runtime.device` stands for.

    Args:
        device: auto, cpu, or a CUDA device.

    Returns:
        The device; auto takes CUDA where there is one.

    Raises:
        UserError: for a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"runtime.device: {device!r} is not auto, cpu or cuda:N") from None
    if chosen.type not in {"cpu", "cuda"}:
        raise UserError(f"runtime.device: {device!r} is not auto, cpu or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f"runtime.device: {device!r}, but {torch.cuda.device_count()} CUDA devices are here")
    return chosen


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The number format of the frozen base.

    Args:
        dtype: auto, float32 or bfloat16.
        device: where the base will live.

    Returns:
        For auto, bfloat16 where the hardware computes it natively, else float32.
    """
    if dtype == "float32":
        return torch.float32
    if dtype == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def base_dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    """The number format of the base model: fp32 where the base itself is trained, else as `pick_dtype` has it."""
    return torch.float32 if isinstance(config.adapter, FullConfig) else pick_dtype(config.dtype, device)


def architecture(config: ModelConfig, head: str | None) -> Any:
    """The class of transformers that the base is loaded as.

    Args:
        config: the recipe's model section.
        head: of the task; None for sft.

    Returns:
        One of its auto classes.

    Raises:
        UserError: where the tokenizer, which decides on it, can't be loaded, or has a mask token for nothing.
    """
    if head != "label_words":
        return model_class(head, False)
    has_mask = load_tokenizer(config).mask_token_id is not None
    with loading(config, "config.json"):
        settings = AutoConfig.from_pretrained(resolve_base(config.base))
    if has_mask and type(settings) not in MODEL_FOR_MASKED_LM_MAPPING:
        raise UserError(
            f"model.base: {config.base!r} has a mask token, but transformers has no model for masked words of its "
            f"architecture, {settings.model_type}: task.head label_words can't be used",
            hint="set task.head: linear",
        )
    return model_class(head, has_mask)


def read_weights(config: ModelConfig, device: torch.device, classes: Classes | None = None, **options: Any) -> Any:
    """The base model as transformers loads it, quantised where the recipe says so.

    Args:
        config: the recipe's model section.
        device: where it goes.
        classes: what it is to tell apart, where it is a classifier.
        options: further ones of transformers' `from_pretrained`.

    Returns:
        What `from_pretrained` returns.

    Raises:
        UserError: where the weights can't be loaded.
    """
    dtype = base_dtype(config, device)
    if config.quantization is not None:
        # Weights are quantised on their way to the device, and can't be moved afterwards.
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_8bit=config.quantization == "8bit",
            load_in_4bit=config.quantization == "4bit",
            # With LLM.int8's threshold (arXiv 2208.07339) an outlier of one client's would decide in which precision
            # the columns of all others in the batch are multiplied.
            llm_int8_threshold=0.0,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
        )
    if classes is not None and classes.head == "linear":
        options["num_labels"] = classes.count
    base, kind = resolve_base(config.base), architecture(config, None if classes is None else classes.head)
    with loading(config, "the weights"):
        loaded = kind.from_pretrained(base, dtype=dtype, use_safetensors=True, **options)
    for module in (loaded[0] if isinstance(loaded, tuple) else loaded).modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes would repack 4-bit weights for a kernel that has no way back, and lose all gradients.
            module.support_avx512bf16_for_cpu = False
    return loaded


def load_base(config: ModelConfig, device: torch.device, classes: Classes | None = None) -> PreTrainedModel:
    """The base model, frozen, with attention that takes packed batches.

    Args:
        config: the recipe's model section.
        device: where it goes.
        classes: what it is to tell apart, where it is a classifier.

    Returns:
        A transformers model in evaluation mode, without gradients. A classification head that its weights lack is zero.

    Raises:
        UserError: where the weights can't be loaded.
    """
    model, info = read_weights(config, device, classes, attn_implementation=IMPLEMENTATION, output_loading_info=True)
    missing = set(info["missing_keys"])
    head = trained_head(model)
    fresh = {name for name in missing if head is not None and name.startswith(f"{head}.")}
    for name in fresh:
        model.get_parameter(name).data.zero_()
    missing -= fresh
    if missing:
        # transformers would go on with random numbers in their place.
        raise UserError(
            f"model.base: the weights of {config.base!r} lack {len(missing)} of the model's tensors, e.g. "
            f"{min(missing)}"
        )
    model.requires_grad_(False)
    frozen: PreTrainedModel = model.eval()
    return frozen if config.quantization is not None else frozen.to(device)  # type: ignore[arg-type]
