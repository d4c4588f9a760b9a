"""Describes how an explanation was made, by values that JSON can hold and that a resumed run compares."""

from __future__ import annotations

import hashlib
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from inspect import isclass, isfunction, signature
from typing import Any

import numpy as np
import torch
from captum.attr import Attribution
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from captum_spes.attr.fingerprint import fingerprint
from captum_spes.models.context import Context, Dtype, context_seconds
from captum_spes.models.protocol import SpeechToTextModel, Tokens, Utterance

N_WEIGHTS = 1_000  # values of each parameter by which weights are recognised


def describe_model(
    model: SpeechToTextModel, gen_args: dict[str, Any] | None, context: Context, dtype: Dtype | None
) -> dict[str, Any]:
    """Describes how a model is run, which must be the same for all results of an evaluation."""
    return {
        "model": model.name,
        "weights": describe_weights(model),
        # for models that take a language or a task
        "language": getattr(model, "language", None),
        "task": getattr(model, "task", "transcribe"),
        "context": context,
        "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
        "gen_args": plain_gen_args(gen_args),
    }


def describe_weights(model: SpeechToTextModel) -> str | None:
    """A hash by which a resumed run recognises other weights of a model of the same name; None without parameters.

    It covers at most 1,000 values of each parameter, because hashing all would take long, and rounds them to bfloat16,
    so that it is the same for the same weights in float32 and bfloat16.
    """
    modules = {"": model} if isinstance(model, nn.Module) else getattr(model, "__dict__", {})
    found = hashlib.sha256()
    n_parameters = 0
    for module in modules.values():
        for name, parameter in module.named_parameters() if isinstance(module, nn.Module) else ():
            # its values are not in memory, or not in one block
            if parameter.is_meta or parameter.layout != torch.strided or is_lazy(parameter):
                continue
            values = parameter.detach().flatten()
            sample = values[:: -(-len(values) // N_WEIGHTS) or 1].to(torch.bfloat16).cpu().contiguous()
            found.update(f"{name} {tuple(parameter.shape)}".encode() + sample.view(torch.uint8).numpy().tobytes())
            n_parameters += 1
    return found.hexdigest()[:16] if n_parameters else None


def describe_method(method: Attribution) -> dict[str, Any]:
    """The arguments of a method's class that differ from their defaults, such as Lime's regression.

    They are read from the attributes with their names. Other attributes may change while the method runs.
    """
    made = _attributes(method)
    try:
        default = _attributes(type(method)(method.forward_func))
    except Exception:  # a class of the user's own may need other arguments
        default = {}
    return {name: value for name, value in made.items() if value != default.get(name)}


def _attributes(method: Attribution) -> dict[str, Any]:
    inside = getattr(method, "attribution_method", None)  # of NoiseTunnel
    if isinstance(inside, Attribution):
        return describe_method(inside)
    given = signature(type(method)).parameters.keys() - {"forward_func"}
    # the regression of Lime is a module, which keeps its arguments
    held = {name.strip("_"): getattr(value, "construct_kwargs", value) for name, value in vars(method).items()}
    return {name: fingerprint(held[name]) for name in sorted(given & held.keys())}


def describe_inputs(model: SpeechToTextModel, utterance: Utterance, tokens: Tokens) -> dict[str, Any]:
    """Describes the inputs and the tokens of the model."""
    return {
        "target": "generated" if tokens.generated else "given",
        "token_ids": tokens.target.tolist(),
        "previous_token_ids": tokens.previous.tolist(),
        "context": utterance.context or {"used": "full"},
        "context_seconds": context_seconds(model, utterance),
        "padding_value": float(utterance.padding.min()) if utterance.padding.numel() else None,
        "dtype": str(utterance.dtype).removeprefix("torch."),
        "device": str(utterance.spectrogram.device),
        "speech_seconds": utterance.speech_seconds,
        "prompt": utterance.prompt or None,
        **utterance.source,
    }


def describe_run(
    model: SpeechToTextModel,
    utterance: Utterance,
    tokens: Tokens,
    preset: str,
    seed: int,
    arguments: dict[str, Any],
    gen_args: dict[str, Any] | None,
) -> dict[str, Any]:
    """Describes an explanation to be made, without batch size and device, which change only the rounding."""
    inputs = describe_inputs(model, utterance, tokens)
    return {
        "model": model.name,
        "version": versions().get("captum-spes"),  # defaults may change with it
        "weights": describe_weights(model),
        "spectrogram": fingerprint(utterance.spectrogram),
        **{key: inputs[key] for key in ("token_ids", "previous_token_ids", "context_seconds", "dtype")},
        "context": {key: inputs["context"].get(key) for key in ("used", "merged_by", "margin")},
        "preset": preset,
        "seed": seed,
        "arguments": describe_arguments(arguments),
        "gen_args": plain_gen_args(gen_args),
    }


def describe_arguments(arguments: dict[str, Any] | None) -> dict[str, Any]:
    """Describes each of the arguments, by name."""
    return {name: describe(value) for name, value in (arguments or {}).items()}


def plain_gen_args(gen_args: dict[str, Any] | None) -> dict[str, Any]:
    """The arguments of generation as values for JSON, with which the same texts can be generated again."""
    return {name: _plain(value) for name, value in (gen_args or {}).items()}


def _plain(value: object) -> Any:
    if isinstance(value, (Tensor, np.ndarray)):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else describe(value)


def describe(value: object) -> Any:
    """Describes a value so that JSON can hold it: plain values unchanged, tensors by shape and a hash.

    Functions of a module have their name, and other functions and callable objects a fingerprint of what they hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    if isinstance(value, Tensor):
        return float(value) if value.numel() == 1 else fingerprint(value)
    if isinstance(value, partial):
        # the given arguments, and the defaults of the function
        parameters = signature(value.func).parameters.values()
        defaults = {item.name: item.default for item in parameters if item.default is not item.empty}
        arguments = {**defaults, **value.keywords}
        return {
            "function": _describe_function(value.func),
            **{
                key: fingerprint(item) if isinstance(item, Tensor) or callable(item) else str(item)
                for key, item in arguments.items()
            },
        }
    return _describe_function(value) if callable(value) else str(value)


def _describe_function(function: Any) -> Any:
    """The name of a class or of a function of a module; of others, which may hold values, a fingerprint."""
    named = isclass(function) or (isfunction(function) and "<" not in function.__qualname__)
    return function.__name__ if named else fingerprint(function)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which a result depends."""
    found = {"python": platform.python_version()}
    for package in ("captum-spes", "captum", "torch", "transformers", "scikit-image", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
