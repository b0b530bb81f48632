"""One question, answered while one watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from retro.common.errors import ConfigError
from retro.generate.config import GenerateConfig, setting_of
from retro.generate.loading import find_checkpoint, for_model, open_engine, prompt_texts, with_choice
from retro.generate.passages import find_passages
from retro.generate.request_checks import LONGER
from retro.generate.runner import QuestionRunner, build_requests, record
from retro.generate.task_prompt import warn_of_other_prompts
from retro.index.config import SearchConfig
from retro.index.retriever import BY_VECTORS
from retro.qa.answer_files import Answer
from retro.qa.question import Question
from retro.qa.task import load_task
from retro.training.config import ParallelConfig
from retro.training.model_tokenizer import open_corpus


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things are."""

    checkpoint: Path
    corpus: Path
    db: Path
    index: Path
    search: SearchConfig = BY_VECTORS


def answer_one(
    config: GenerateConfig,
    layout: ParallelConfig,
    places: Places,
    question: str,
    *,
    passages_from: str,
    say: Callable[[str], None],
) -> Answer:
    """Answer a question that stands in no file.

    Args:
        config: Prompt, sampling, passages; its questions are left aside.
        layout: Processes.
        places: Checkpoint, corpus, database and index.
        question: Its text.
        passages_from: `retriever`, searched with the question; `live`, also while the answer grows; or `none`.
        say: Called with each piece of the answer's text, as it becomes certain.

    Raises:
        ConfigError: There is no such source, the question is empty or too long, or a setting does not fit the model.
        ArtifactError: Something is missing or damaged.
    """
    if not question.strip():
        raise ConfigError("question", question, "needs a text")
    setting = setting_of(passages_from)
    info = find_checkpoint(config, places.checkpoint)
    config = config.model_copy(update={"settings": (setting,), "start": 0, "count": None})
    config, _ = with_choice(for_model(config, info))
    task = load_task(config.task)
    texts = prompt_texts(config, task)
    warn_of_other_prompts(config, info.path, texts)
    corpus = open_corpus(places.corpus, info, searches=config.searches)
    engine, retrieve = open_engine(config, layout, info, corpus, places.db, places.index, places.search)
    asked = Question(id="0", question=question.strip(), answers=())
    asker = QuestionRunner(engine=engine, config=config, task=task, questions=[asked], identity={}, texts=texts)
    found = find_passages(config, [asked], retrieve, needed=False)[setting]
    (request,) = build_requests(asker, setting, found)
    if request is None:
        most = engine.decoder.sequence_length
        need = f"needs to fit a sequence of {most} tokens beside the prompt and the answer{LONGER}"
        raise ConfigError("question", f"{question[:40]}…", need)
    completion = None
    for event in engine.stream(request):
        say(event.text)
        completion = event.completion
    return record(setting, asked, found[0], completion)
