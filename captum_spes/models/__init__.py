"""Speech-to-text models behind one protocol, one file a family."""

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
        name_or_model: a model of one of the supported families: ``"whisper-tiny.en"`` for the one bundled with the
            ``demo`` extra, ``"whisper-base"`` for that of the ``multilingual`` extra (without the extra,
            ``"openai/whisper-…"`` of the Hugging Face hub); the id of a model of the hub; the path of a folder that
            holds one; or a ``transformers`` model in memory, also inside ``torch.compile``, ``DataParallel`` or PEFT.
        processor: the processor of a model in memory; or its feature extractor alone, where targets are given as token
            ids.
        device: where to run it, ``"cpu"``, ``"cuda"``, …. Default: a GPU where there is one; a model in memory stays
            where it is.
        language: language of a multilingual model's text, as a code of its family such as ``"de"`` (Whisper) or
            ``"deu"`` (SeamlessM4T). Default: detected by Whisper; others ask for it, or have one.
        task: ``"transcribe"`` or ``"translate"``, which multilingual Whisper and Canary do into English.

    Returns:
        SpeechToTextModel: to be wrapped, ``SpeechToTextAttribution(SPES(model))``.

    Weights are read from safetensors files alone: pickled ones (``pytorch_model.bin``) may run code. A model's own code
    (``trust_remote_code``) is never run; load such a model yourself and give it with its processor.

    Raises:
        ValueError: the model cannot be found, read or supported, or the device is not there; the message says which.
        ImportError: the ``speech`` extra is missing, or that of a family's processor; the message says which.

    Example::

        >>> from captum_spes.models import load_model
        >>> load_model("whisper-tiny.en", device="cpu").name  # doctest: +SKIP
        'whisper-tiny.en'
    """
    require("transformers")
    from captum_spes.models.bundled import BUNDLES, load_bundled

    if isinstance(name_or_model, (str, os.PathLike)):
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
            raise ValueError(f"of the family {family.title} give a {family.model}, not a {type(model).__name__}.")
        check_weights(model)
        if processor is None:
            raise ValueError("a model in memory needs its processor: load_model(model, processor).")
        if device is not None:
            model.to(_check_device(device))
    return FAMILIES[model.config.model_type].adapter_class()(model, processor, name, language, task)


def _load_pretrained(name: str, bundle: Bundle | None) -> tuple[Any, Any]:
    """A model of the hub or a folder, or the hub's of a bundle that is not installed.

    Nothing of it is run: weights are read from safetensors files, never from pickles, and its own code is left alone.
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
    except Exception as error:  # whatever a hub, a file or a format can fail with
        hint = (
            f"install the bundled one with {install_command(bundle.extra)}, or go where the hub is reached"
            if bundle
            else "give the id of a Hugging Face model, the path of a folder that holds one, or whisper-tiny.en"
        )
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        if "custom code" in reason:
            hint = "its own code is not run; load it yourself, and give it in memory with its processor"
        elif "safetensors" in reason or "weights_only" in reason:
            hint = "weights are read from safetensors files alone, for pickled ones may run code: save it anew"
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
        torch.zeros(1, device=checked).cpu()  # some devices fail only when something is read back
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise ValueError(
            f"the device {str(device)!r} cannot be used here: give cpu, or an accelerator that this machine and this "
            "build of PyTorch have (cuda, mps, …)."
        ) from error
    return checked
