"""What a HuggingFace folder says beside its tokenizer file: how prompts begin, where answers end, how turns look.

It is read once, from the folder's own files, and is beside the tokenizer as one file of ours. A directory without it
holds a tokenizer of which nothing more is known: prompts begin with nothing, and answers end at the end-of-document
token.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import yaml
from typing_extensions import TypedDict

from retro.common.artifacts import fingerprint
from retro.common.errors import ArtifactError, ConfigError, DataError, short_reason
from retro.common.files import read_json, write_json
from retro.common.input_files import read_text
from retro.common.json_files import Count
from retro.common.yaml_files import parse_yaml

if TYPE_CHECKING:
    import tokenizers


log = logging.getLogger(__name__)

CONVENTIONS = "conventions.json"
SOURCE_FILES = (
    "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json", "chat_template.jinja",
    "chat_template.json", "README.md",
)  # fmt: skip
"""The files of a HuggingFace folder that are read here."""
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""The special tokens that transformers calls by a name; a chat template may use them as variables."""
AddSpecialTokens: TypeAlias = Literal["auto"] | bool
"""Whether prompts begin with what the tokenizer adds by itself (`auto`), with it or else the begin-of-sequence token
(true), or with nothing (false)."""
_NO_LIMIT = 10**9
"""transformers writes 10^30 as `model_max_length` where it knows none."""
_AGAIN = "Fetch the file again"


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What is known of how a tokenizer's text is put together."""

    tokens: Mapping[str, str] = field(default_factory=dict)
    """The tokens of NAMED that there are."""
    ids: Mapping[str, int] = field(default_factory=dict)
    """Their ids."""
    prefix: tuple[int, ...] = ()
    """What the folder's tokenizer puts before a text by itself, such as a begin-of-sequence token."""
    suffix: tuple[int, ...] = ()
    """What it puts after one; no prompt of ours has it."""
    ends: tuple[int, ...] = ()
    """All tokens at which an answer ends."""
    chat_template: str = ""
    """How turns are written (jinja2); empty: there is no template."""
    model_max_length: int | None = None
    """Tokens of the longest text, as the folder's tokenizer says."""
    max_position_embeddings: int | None = None
    """Tokens of the longest text, as the folder's model says."""
    license: Mapping[str, str] = field(default_factory=dict)
    """`license`, `license_name` and `license_link` of the folder's card."""
    base_model: str = ""
    """The folder's model by the name it has on the hub, or what its card says that it was made from."""

    @property
    def identity(self) -> str:
        """A name for all of it that shapes prompts and answers."""
        return fingerprint([self.prefix, self.ends, self.chat_template, dict(self.tokens)])


def prompt_prefix(conventions: Conventions, wanted: AddSpecialTokens, setting: str) -> tuple[int, ...]:
    """The tokens that a prompt begins with.

    Args:
        conventions: The tokenizer's.
        wanted: Which of them.
        setting: What says so, by name.

    Raises:
        ConfigError: A begin-of-sequence token is wanted, and there is none.
    """
    if wanted is False:
        return ()
    if wanted is True and not conventions.prefix:
        if "bos_token" not in conventions.ids:
            raise ConfigError(setting, True, "needs a tokenizer whose folder names a bos_token; auto does without")
        return (conventions.ids["bos_token"],)
    return conventions.prefix


class _Known(TypedDict):
    tokens: dict[str, str]
    ids: dict[str, Count]
    prefix: list[Count]
    suffix: list[Count]
    ends: list[Count]
    chat_template: str
    model_max_length: Count | None
    max_position_embeddings: Count | None
    license: dict[str, str]
    base_model: str


def write_conventions(conventions: Conventions, directory: Path) -> None:
    """Write them beside a tokenizer; where nothing is known, there is no file."""
    if conventions == Conventions():
        (directory / CONVENTIONS).unlink(missing_ok=True)
        return
    write_json(directory / CONVENTIONS, asdict(conventions))


def load_conventions(directory: Path) -> Conventions:
    """Those that are beside a tokenizer.

    Raises:
        ArtifactError: The file is damaged.
    """
    path = directory / CONVENTIONS
    if not path.exists():
        return Conventions()
    data = read_json(path, "Run `retro corpus` again, with --redo", _Known)
    lists = {name: tuple(data[name]) for name in ("prefix", "suffix", "ends")}
    return Conventions(**{name: data[name] for name in _Known.__annotations__} | lists)


def folder_conventions(folder: Path, tokenizer_file: Path) -> Conventions:
    """What a folder says, as transformers reads it.

    Args:
        folder: With tokenizer_config.json, generation_config.json, config.json, chat_template.jinja and README.md, as
            far as there are any.
        tokenizer_file: A tokenizer.json or a SentencePiece model, whose ids count.

    Raises:
        DataError: A file of the folder is damaged, or an entry has a type that cannot be.
    """
    config = _read(folder / "tokenizer_config.json")
    model, generation = _read(folder / "config.json"), _read(folder / "generation_config.json")
    named = _named({**_read(folder / "special_tokens_map.json"), **config}, folder / "tokenizer_config.json")
    if tokenizer_file.suffix == ".json":
        prefix, suffix, id_of, size = _of_tokenizers(tokenizer_file)
    else:
        prefix, suffix, id_of, size = _of_sentencepiece(tokenizer_file, config, named)
    ids = {name: id_ for name, text in named.items() if (id_ := id_of(text)) is not None}
    for name in sorted(set(named) - set(ids)):
        log.warning("%s: %s is %r, which the tokenizer has not: left out", folder, name, named[name][:80])
    ends = [*([ids["eos_token"]] if "eos_token" in ids else []), *_ends(generation, model, folder)]
    strange = sorted({id_ for id_ in ends if id_ >= size})
    if strange:
        log.warning("%s: answers are to end at token %d, which the tokenizer has not: left out", folder, strange[0])
    card = _card(folder / "README.md")
    return Conventions(
        tokens={name: named[name] for name in ids},
        ids=ids,
        prefix=prefix,
        suffix=suffix,
        ends=tuple(id_ for id_ in dict.fromkeys(ends) if id_ < size),
        chat_template=_template(folder, config),
        model_max_length=_length(config.get("model_max_length")),
        max_position_embeddings=_positions(model),
        license={name: card[name] for name in ("license", "license_name", "license_link") if name in card},
        base_model=_base_model(model, card),
    )


def _positions(model: Mapping[str, Any]) -> int | None:
    """Tokens that a model was made for; no more than its sliding window, which no export of ours has."""
    found = _length(model.get("max_position_embeddings", model.get("n_positions")))
    window = None if model.get("use_sliding_window") is False else _length(model.get("sliding_window"))
    return min(found, window) if found and window else found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    data: dict[str, Any] = read_json(path, _AGAIN, error=DataError, keys_once=False)
    return data


def _named(config: Mapping[str, Any], path: Path) -> dict[str, str]:
    found = {}
    for name in NAMED:
        token = config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if text is None:
            continue
        if not isinstance(text, str) or not text:
            raise DataError(path, f"has as {name} something that is not a token", _AGAIN)
        found[name] = text
    return found


_Read = tuple[tuple[int, ...], tuple[int, ...], Callable[[str], int | None], int]


def _of_tokenizers(file: Path) -> _Read:
    """Prefix, suffix, ids of tokens, and the number of ids.

    transformers leaves `add_bos_token` and `add_eos_token` of tokenizer_config.json aside where there is a
    tokenizer.json: what that file's own post-processor does is what counts.
    """
    import tokenizers

    try:
        model = tokenizers.Tokenizer.from_file(str(file))
    # The library raises a bare Exception for every kind of bad file.
    except Exception as error:  # noqa: BLE001
        raise DataError(file, f"is not a tokenizer.json ({short_reason(error)})", _AGAIN) from None
    model.no_truncation()
    model.no_padding()
    vocabulary = model.get_vocab(with_added_tokens=True)
    prefix, suffix = _around(model, vocabulary)
    return prefix, suffix, model.token_to_id, max(vocabulary.values(), default=-1) + 1


def _around(model: tokenizers.Tokenizer, vocabulary: Mapping[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What its post-processor puts before and after a text."""
    for text in ("a", *sorted(vocabulary)[:100]):
        try:
            mask = (row := model.encode(text, add_special_tokens=True)).special_tokens_mask
            plain = len(model.encode(text, add_special_tokens=False).ids)
        # A bare Exception again, for a word that the model cannot spell.
        except Exception:  # noqa: BLE001
            continue
        if 0 in mask and mask.count(0) == plain:
            first, last = mask.index(0), len(mask) - mask[::-1].index(0)
            return tuple(row.ids[:first]), tuple(row.ids[last:])
    return (), ()


def _of_sentencepiece(file: Path, config: Mapping[str, Any], named: Mapping[str, str]) -> _Read:
    """As `_of_tokenizers`. A SentencePiece model says nothing of its own: here `add_bos_token` counts."""
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError, UnicodeDecodeError):
        raise DataError(file, "is not a SentencePiece model", _AGAIN) from None

    def id_of(text: str) -> int | None:
        found = int(model.piece_to_id(text))
        return None if found == model.unk_id() and model.id_to_piece(found) != text else found

    around = []
    for setting, name in (("add_bos_token", "bos_token"), ("add_eos_token", "eos_token")):
        token = id_of(named[name]) if config.get(setting) is True and name in named else None
        around.append(() if token is None else (token,))
    return around[0], around[1], id_of, int(model.vocab_size())


def _ends(generation: Mapping[str, Any], model: Mapping[str, Any], folder: Path) -> list[int]:
    found: list[int] = []
    for name, settings in (("generation_config.json", generation), ("config.json", model)):
        given = settings.get("eos_token_id")
        ids = given if isinstance(given, list) else [] if given is None else [given]
        if any(type(id_) is not int or id_ < 0 for id_ in ids):
            raise DataError(folder / name, "has an eos_token_id that is none", _AGAIN)
        found += ids
    return found


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    """The chat template; of several with names the one called `default`."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        # As transformers opens it.
        return read_text(file, _AGAIN, error=DataError).replace("\r\n", "\n").replace("\r", "\n")
    found = _read(folder / "chat_template.json").get("chat_template", config.get("chat_template"))
    if isinstance(found, list):
        named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
        if "default" not in named:
            log.warning("%s: has chat templates, and none called 'default': none is used", folder)
        found = named.get("default")
    if found is not None and not isinstance(found, str):
        raise DataError(folder / "tokenizer_config.json", "has a chat_template that is not text", _AGAIN)
    return found or ""


def _length(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < _NO_LIMIT else None


def _card(path: Path) -> dict[str, str]:
    """What is at the head of a card, as texts; a head that cannot be read says nothing."""
    if not path.is_file():
        return {}
    try:
        text = read_text(path, _AGAIN)
        head = parse_yaml(text[4:].split("\n---", 1)[0]) if text.startswith("---\n") else {}
    except (ArtifactError, yaml.YAMLError):
        log.warning("%s: its head cannot be read: licence and base model are not known", path)
        return {}
    given = head.items() if isinstance(head, dict) else ()
    firsts = {name: value[0] if isinstance(value, list) and value else value for name, value in given}
    return {name: value for name, value in firsts.items() if isinstance(value, str)}


def _base_model(model: Mapping[str, Any], card: Mapping[str, str]) -> str:
    path = model.get("_name_or_path")
    on_hub = isinstance(path, str) and path.count("/") == 1 and not path.startswith((".", "/", "~"))
    return str(path) if on_hub else card.get("base_model", "")


# In the order in which transformers decides: the tokenizer's own settings before those of the model.
_BY_NAME = ("tokenizer_config.json", "special_tokens_map.json")
_BY_ID = ("generation_config.json", "config.json")


def named_eod(folder: Path) -> tuple[Path, str | int] | None:
    """The end-of-text token that a folder names.

    Returns:
        The file that names it, and its name or its id; the first id where a model stops at several. None where no
        file does.

    Raises:
        DataError: A file is damaged, or names something else than a token.
    """
    for name in _BY_NAME:
        token = _entry(folder / name, "eos_token")
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None:
            if not isinstance(token, str):
                raise _odd(folder / name, "eos_token")
            return folder / name, token
    for name in _BY_ID:
        found = _entry(folder / name, "eos_token_id")
        if isinstance(found, list) and found:
            found = found[0]
        if found is not None:
            if type(found) is not int or not 0 <= found < 1 << 31:
                raise _odd(folder / name, "eos_token_id")
            return folder / name, found
    return None


def _entry(path: Path, key: str) -> Any:
    if not path.is_file():
        return None
    return read_json(path, "Fetch the file again", error=DataError, keys_once=False).get(key)


def _odd(path: Path, key: str) -> DataError:
    return DataError(path, f"has an {key} that is none", "Give corpus.tokenizer.eod_token, or fetch the file again")
