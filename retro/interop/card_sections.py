"""The sections of a model card, as Markdown. Every number is one that the run's files hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from retro.interop.run_facts import Facts, StageFacts
from retro.model.count import count_parameters
from retro.report.format import count, in_order, loss, metric_name, model_name, percent, seconds, setting_name

_WORK = {
    "corpus": "The data it was trained on",
    "db": "The chunk database",
    "index": "The embedder and the index",
    "neighbors": "The neighbors it was trained with",
    "pretrain": "The pretraining that tuning started from",
    "perplexity": "Perplexity",
    "sft": "The questions it was tuned on",
}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; a bar within a cell is escaped."""
    lines = [list(head), ["---"] * len(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def network(facts: Facts, *, decoder_only: bool) -> str:
    """Sizes and kinds, with the parameters counted."""
    shape, model = facts.info.shape, facts.info.shape.model
    counted = count_parameters(shape.model_copy(update={"model": model.model_copy(update={"vocabulary_multiple": 1})}))
    reads = bool(model.cross_attention_layers) and not decoder_only
    rows: list[tuple[str, object]] = [
        ("parameters", f"{counted.total if reads else counted.gpt:,}"),
        ("layers", model.layers),
        ("hidden size, feed-forward", f"{model.hidden_size}, {model.ffn_hidden_size}"),
        ("heads, key/value heads", f"{model.heads}, {model.query_groups}"),
        ("vocabulary", f"{shape.vocabulary:,} tokens; rows that only pad it in training are left out"),
        ("sequence length", model.sequence_length),
        ("positions, activation, norm", f"{model.positions}, {model.activation}, {model.normalization}"),
    ]
    if reads:
        layers = ", ".join(map(str, model.cross_attention_layers))
        rows += [
            ("of these, encoder and cross-attention", f"{counted.total - counted.gpt:,}"),
            ("layers that read neighbors", layers),
            ("chunk length, tokens of a neighbor", f"{shape.chunk_length}, {shape.retrieved_length}"),
            ("neighbors of each chunk in training", model.neighbors),
        ]
    return table(("", ""), rows)


def data(facts: Facts) -> str:
    """Sources with their counts, the split and the tokenizer."""
    corpus = facts.stages.get("corpus")
    if corpus is None:
        return _absent(facts, "corpus")
    given = {source["name"]: source for source in corpus.config["sources"]}
    rows = [
        (name, _origin(given.get(name, {})), count(held["documents"]), count(held["tokens"]))
        for name, held in corpus.counts["sources"].items()
    ]
    split = ", ".join(
        f"{name} {count(part['documents'])} documents ({count(part['tokens'])} tokens)"
        for name, part in sorted(corpus.counts["split"].items(), key=lambda part: -part[1]["tokens"])
    )
    settings = corpus.config["tokenizer"]
    origin = "made from this corpus" if settings["path"] is None else f"from `{settings['path']}`"
    return (
        f"{table(('source', 'from', 'documents', 'tokens'), rows)}\n\n"
        f"Split by document: {split}. Tokenizer: {settings['kind']}, "
        f"{count(corpus.counts['tokenizer']['vocab_size'])} tokens, {origin}. "
        "What rights the texts carry is not in the run's files."
    )


def _origin(source: Mapping[str, Any]) -> str:
    if source.get("path"):
        path = Path(source["path"])
        # Its path on one machine says nothing to a reader of the card.
        return f"`{path.name if path.is_absolute() else path}`"
    return f"built in: {source['built_in']}" if source.get("built_in") else "not recorded"


def retrieval(facts: Facts) -> str:
    """Database, embedder, index and neighbors."""
    if not facts.info.shape.model.retrieval:
        return "A GPT: it was trained without neighbors."
    lines = [_absent(facts, name) for name in ("db", "index", "neighbors") if name not in facts.stages]
    rows: list[tuple[str, object]] = []
    if "db" in facts.stages:
        database = facts.stages["db"]
        rows.append(
            ("database", f"{count(database.counts['rows'])} chunks of {database.config['chunk_length']} tokens")
        )
    if "index" in facts.stages:
        rows += _index_rows(facts.stages["index"])
    if "neighbors" in facts.stages:
        settings = facts.stages["neighbors"].config
        kept = f"{settings['saved']} of {settings['searched']} searched; none from the chunk's own document"
        rows.append(("neighbors kept of each chunk", kept))
    return "\n\n".join(filter(None, [table(("", ""), rows) if rows else "", *lines]))


def _index_rows(index: StageFacts) -> list[tuple[str, object]]:
    embedder = index.config["embedder"]
    if not index.counts["dimension"]:
        return [("index", f"BM25, {count(index.counts['rows'])} chunks, no vectors")]
    name = f"{embedder['kind']}: {embedder['model']}" if embedder["model"] else embedder["kind"]
    rows: list[tuple[str, object]] = [("embedder", f"{name}, {index.counts['dimension']} dimensions")]
    weights = index.report.get("embedder", {}).get("weights_sha256")
    if weights:
        rows.append(("SHA-256 of the embedder's weights", f"`{weights}`"))
    rows.append(("index", f"Faiss `{index.counts['faiss']}`, {count(index.counts['rows'])} vectors"))
    if index.report.get("recall_at_10") is not None:
        rows.append(("recall of the search at 10, against exact search", percent(index.report["recall_at_10"])))
    return rows


def training(facts: Facts) -> str:
    """Settings and losses of the training that this checkpoint comes from, and of the one before it."""
    run, length = facts.training, facts.info.shape.model.sequence_length
    if not run.settings:
        source = facts.info.config.get("converted_from")
        weights = f"The weights were converted from `{source}`. " if source else ""
        return f"{weights}How they were trained is not known here."
    read = facts.info.step * run.settings["global_batch"] * length
    rows = [
        ("steps of this checkpoint", f"{facts.info.step:,} of {run.settings['steps']:,}"),
        ("tokens in their batches", f"at most {count(read)}, padding included"),
    ]
    rows += [*(_start(facts) if run.tuned_from is None else []), *_settings(run.settings, length)]
    if run.result is None:
        rows.append(("losses", "not recorded for this checkpoint: it is not the end of its run"))
    else:
        rows += [*_losses(run.result), ("time", seconds(run.result["seconds"]))]
    if run.tuned_from is None:
        return table(("", ""), rows)
    own = table(("", ""), [*rows, *_prompt_rows(facts)])
    return f"Tuned on instructions:\n\n{own}\n\n{_tuning_data(facts)}\n\n{_pretraining(facts, length)}"


def _start(facts: Facts) -> list[tuple[str, str]]:
    """What pretraining started from, where that was not fresh weights."""
    stage = facts.stages.get("pretrain")
    start = stage.config["pretrain"].get("start_from") if stage is not None else None
    return [("started from", f"`{start}`")] if start else []


def _settings(settings: Mapping[str, Any], length: int) -> list[tuple[str, str]]:
    warmup = settings["warmup_steps"]
    rate = f"{settings['lr']:g}, {settings['schedule']}, {f'{warmup} steps of' if warmup else 'no'} warm-up"
    return [
        ("trained", _trained(settings)),
        ("batch", f"{settings['global_batch']} sequences of up to {length} tokens"),
        ("learning rate", rate),
        ("Adam: beta1, beta2, epsilon", f"{settings['beta1']}, {settings['beta2']}, {settings['epsilon']:g}"),
        ("weight decay, clipping", f"{settings['weight_decay']}, {settings['clip']}"),
        ("precision, seed", f"{settings['precision']}, {settings['seed']}"),
    ]


def _trained(settings: Mapping[str, Any]) -> str:
    lora = settings.get("lora")
    if lora:
        return f"low-rank adapters of rank {lora['rank']}, alpha {lora['alpha']:g}, merged into the weights"
    alone = {
        "all": "all weights",
        "retrieval": "cross-attention and encoder alone; the decoder is as it was",
        "decoder": "the decoder alone; cross-attention and encoder are as they were",
        "modules": "none of the network; modules beside it, which are not exported",
    }
    return alone[settings.get("train_only", "all")]


def _losses(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    valid = result.get("valid_loss")
    return [
        ("loss of the last step, nats per token", loss(result["final_loss"])),
        ("loss on held-out data", "not measured" if valid is None else loss(valid)),
        ("SHA-256 of the weights", f"`{result['weights_sha256']}`"),
    ]


def _prompt_rows(facts: Facts) -> list[tuple[str, str]]:
    """How questions were put: a tuned model answers best to the same."""
    data = facts.training.config["sft"]["data"]
    rows = [
        ("prompts", f"style `{data['style']}` of the toolkit"),
        ("passages in a prompt", str(data["contexts_in_prompt"])),
    ]
    if facts.info.shape.model.retrieval:
        read = str(data["neighbor_text"]).replace("_", " ") if data["encoder"] else "nothing: it was left out in tuning"
        rows.append(("what the encoder read of passages", read))
    return rows


def _tuning_data(facts: Facts) -> str:
    if "sft" not in facts.stages:
        return _absent(facts, "sft")
    rows = [
        (one["name"], f"`{one['file']}`", count(one["questions"]), count(one["samples"]))
        for one in facts.stages["sft"].report.get("sets", [])
    ]
    return table(("question set", "file", "questions", "samples"), rows)


def _pretraining(facts: Facts, length: int) -> str:
    stage = facts.stages.get("pretrain")
    if stage is None:
        return _absent(facts, "pretrain")
    variants = stage.counts["variants"]
    name = next(one for one in variants if variants[one]["weights_sha256"][:16] == facts.training.tuned_from)
    rows = [("steps", f"{variants[name]['steps']:,}"), *_start(facts), *_settings(stage.config["train"], length)]
    return f"Before that, pretrained as `{name}`:\n\n{table(('', ''), [*rows, *_losses(variants[name])])}"


def perplexity(facts: Facts) -> str:
    """The run's table of perplexities."""
    if not facts.perplexity:
        return _absent(facts, "perplexity")
    rows = [
        (model_name(row["model"], row["neighbors"]), loss(row["perplexity"]), count(row["tokens"]))
        for row in facts.perplexity["rows"]
    ]
    head = (f"model, on the {facts.perplexity['split']} split", "perplexity per token", "tokens")
    before = ""
    if facts.training.tuned_from is not None:
        before = "Of the pretrained model, before it was tuned, and of what it was compared with:\n\n"
    return before + table(head, rows)


def answers(facts: Facts) -> str:
    """Scores of the answers that this checkpoint gave."""
    if not facts.scores:
        return "Answers to questions: the run holds no scored answers of this checkpoint."
    return "\n\n".join(_asking(name, asked) for name, asked in facts.scores.items())


def _asking(name: str, asked: Mapping[str, Any]) -> str:
    scores, generate = asked["scores"], asked["generate"]
    metrics = scores["metrics"]
    rows = [
        (setting_name(setting), *(_interval(scores["settings"][setting][metric]) for metric in metrics))
        for setting in in_order(scores["settings"])
    ]
    title = f"`{name}`: " if name else ""
    share = percent(asked["evaluate"]["confidence"], 0)
    return (
        f"{title}{count(scores['questions'])} questions of the {generate['split']} split, "
        f"{sampling_in_words(generate['sampling'])}; intervals hold {share} of resamples:\n\n"
        + table(("setting", *map(metric_name, metrics)), rows)
    )


def sampling_in_words(settings: Mapping[str, Any]) -> str:
    """How answers were chosen, from the settings of `generate.sampling`."""
    if not settings["temperature"]:
        return "greedy"
    top_k = f", top {settings['top_k']}" if settings["top_k"] else ""
    top_p = f", top-p {settings['top_p']}" if settings["top_p"] < 1 else ""
    return f"drawn at temperature {settings['temperature']}{top_k}{top_p}"


def _interval(value: Mapping[str, Any]) -> str:
    return f"{percent(value['mean'])} ({percent(value['low'])} to {percent(value['high'])})"


def _absent(facts: Facts, stage: str) -> str:
    return f"{_WORK[stage]}: not known here; {facts.absent[stage]}."
