"""Unwraps models that are wrapped for speed or for training, and refuses models without usable weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

ADAPTER_FILE = "adapter_config.json"


def unwrap(model: Any) -> Any:
    """The model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and PEFT.

    Low-rank adapters of PEFT stay in the layers of the returned model.

    Raises:
        ValueError: the model is a PEFT model with learned prompts, which would be lost, or it is a pipeline.
    """
    while True:
        if hasattr(model, "_orig_mod"):  # of torch.compile
            model = model._orig_mod
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif hasattr(model, "peft_config") and hasattr(model, "get_base_model"):
            if any(getattr(config, "is_prompt_learning", False) for config in model.peft_config.values()):
                raise ValueError(
                    "a PEFT model with learned prompts cannot be explained, because its prompts are not tokens: give a "
                    "model without learned prompts."
                )
            model = model.get_base_model()
        elif hasattr(model, "model") and hasattr(model, "feature_extractor") and not isinstance(model, nn.Module):
            raise ValueError("a pipeline is not a model: give its parts, load_model(pipeline.model, processor).")
        else:
            return model


def check_weights(model: nn.Module) -> None:
    """Raises a ValueError if some weights of a model have no values."""
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.is_meta:
            raise ValueError(
                f"{name} is on the meta device and has no values, because the model was not loaded or is offloaded: "
                "load the model as a whole, onto one device."
            )


def check_adapter(name: str) -> None:
    """Raises a ValueError for a folder that holds an adapter without its model."""
    folder = Path(name)
    if not (folder / ADAPTER_FILE).is_file() or (folder / "config.json").is_file():
        return
    try:
        base = json.loads((folder / ADAPTER_FILE).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError):
        base = None
    raise ValueError(
        f"{name} holds an adapter of {base or 'a model'} and no model: merge the adapter into the model, with PEFT's "
        "PeftModel.from_pretrained(model, folder).merge_and_unload(), and save the result; or give it in memory."
    )


def is_quantized(model: nn.Module) -> bool:
    """Whether a model has layers that PyTorch quantised dynamically or statically, which have no gradients."""
    kinds = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
    return any(type(module).__module__.startswith(kinds) for module in model.modules())
