"""A task's `generation_kwargs` as ours: what is known, what changes nothing, and what a Retro model does not do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from retro.common.errors import ConfigError
from retro.generate.config import LARGEST_PENALTY, LEAST_PENALTY
from retro.generate.request import Sampling

log = logging.getLogger(__name__)

_MAX_NEW_TOKENS = 256
_LARGEST, _LEAST_SHARE = 1e9, 1e-9
_LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Names for the most tokens of an answer: the harness's, transformers' and OpenAI's."""
_KNOWN = (*_LENGTHS, "do_sample", "min_new_tokens", "repetition_penalty", "temperature", "top_k", "top_p", "until")
# What transformers' generate() does when it is not set otherwise; without beams there is nothing to stop early.
_NEUTRAL: dict[str, Any] = {
    "diversity_penalty": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1,
    "epsilon_cutoff": 0,
    "eta_cutoff": 0,
    "min_length": 0,
    "min_p": 0,
    "no_repeat_ngram_size": 0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "num_return_sequences": 1,
    "typical_p": 1,
}
_WITHOUT_EFFECT = ("early_stopping", "length_penalty", "pad_token_id", "return_dict_in_generate", "use_cache")


def sampling_of(settings: Mapping[str, Any], task: str | None, *, seed: int, sequence_length: int) -> Sampling:
    """How the answers of a task are generated: drawn if it says so, or gives a temperature and does not say.

    Args:
        settings: The task's.
        task: Its name; None where the harness does not say.
        seed: Of the request.
        sequence_length: Of the model.

    Raises:
        ConfigError: A setting is not known here, or has a value that cannot be; the task is named.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    whose = "" if task is None else f"of the task {task!r} "
    for name in sorted(set(given) - {*_KNOWN, *_WITHOUT_EFFECT}):
        _require_neutral(name, given[name], whose)
    return Sampling(
        temperature=_temperature(given, whose),
        top_k=_whole(given, "top_k", 0, whose),
        top_p=_number(given, "top_p", 1.0, whose, least=_LEAST_SHARE, most=1.0),
        repetition_penalty=_number(given, "repetition_penalty", 1.0, whose, least=LEAST_PENALTY, most=LARGEST_PENALTY),
        min_new_tokens=_whole(given, "min_new_tokens", 0, whose),
        max_new_tokens=_most_tokens(given, whose, sequence_length),
        stop=_stops(given, whose),
        seed=seed,
    )


def draws(settings: Mapping[str, Any]) -> bool:
    """Whether settings ask for tokens to be drawn."""
    return _temperature({name: value for name, value in settings.items() if value is not None}, "") > 0


def _temperature(given: Mapping[str, Any], whose: str) -> float:
    temperature = _number(given, "temperature", 1.0 if given.get("do_sample") else 0.0, whose)
    drawn = given.get("do_sample", temperature > 0)
    if not isinstance(drawn, bool):
        raise ConfigError("generation_kwargs.do_sample", drawn, f"{whose}needs true or false")
    return temperature if drawn else 0.0


def _stops(given: Mapping[str, Any], whose: str) -> tuple[str, ...]:
    until = given.get("until", ())
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError("generation_kwargs.until", until, f"{whose}needs a text, or a list of them")
    return tuple(text for text in texts if text)


def _require_neutral(name: str, value: Any, whose: str) -> None:
    if name not in _NEUTRAL:
        known = ", ".join(sorted({*_KNOWN, *_WITHOUT_EFFECT, *_NEUTRAL}))
        raise ConfigError(f"generation_kwargs.{name}", value, f"{whose}is not known to a Retro model; known: {known}")
    if value != _NEUTRAL[name]:
        need = f"{whose}needs {_NEUTRAL[name]}, which changes nothing: a Retro model does not generate in any other way"
        raise ConfigError(f"generation_kwargs.{name}", value, need)


def _most_tokens(given: Mapping[str, Any], whose: str, sequence_length: int) -> int:
    found = {name: _whole(given, name, 0, whose) for name in _LENGTHS if name in given}
    if len(set(found.values())) > 1:
        said = ", ".join(f"{name}: {value}" for name, value in found.items())
        raise ConfigError("generation_kwargs.max_gen_toks", said, f"{whose}needs one number: these are the same thing")
    most = next(iter(found.values()), _MAX_NEW_TOKENS)
    if most < 1:
        raise ConfigError(f"generation_kwargs.{next(iter(found))}", most, f"{whose}needs a token at least")
    if most >= sequence_length:
        most = sequence_length // 2
        log.warning("max_gen_toks is %d: half of the model's sequence, so that there is room for a prompt", most)
    return most


def _whole(given: Mapping[str, Any], name: str, default: int, whose: str) -> int:
    number = _number(given, name, default, whose)
    if number != int(number):
        raise ConfigError(f"generation_kwargs.{name}", given[name], f"{whose}needs a whole number")
    return int(number)


def _number(
    given: Mapping[str, Any], name: str, default: float, whose: str, *, least: float = 0.0, most: float = _LARGEST
) -> float:
    value = given.get(name, default)
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise ConfigError(f"generation_kwargs.{name}", value, f"{whose}needs a number")
    if not least <= number <= most:
        bounds = f"of {least:g} at least" if most == _LARGEST else f"from {least:g} to {most:g}"
        raise ConfigError(f"generation_kwargs.{name}", value, f"{whose}needs a number {bounds}")
    return number
