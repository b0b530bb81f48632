"""A world of bridges and towers, and teachers that know its rules: good ones and bad ones."""

from __future__ import annotations

import os
import random
import re
import signal
import time

from retro.teacher.request import TeacherRequest

CATEGORIES = "Bridge, Tower,\nLake, , bridge\nCanal"
ATTRIBUTES = ("Year of opening", "Length", "Cost", "Height", "Owner")
UNKNOWN = "This cannot be answered from what was found."
_CALLS: list[TeacherRequest] = []
_STOPS: list[int] = []


def calls() -> list[TeacherRequest]:
    """Every request since the last call."""
    found, _CALLS[:] = list(_CALLS), []
    return found


def stop_after(count: int) -> None:
    """Have the process stopped before the request after so many."""
    _STOPS[:] = [len(_CALLS) + count]


def good(request: TeacherRequest) -> str:
    """Follows every step, and answers from the paragraph alone."""
    if _STOPS and len(_CALLS) == _STOPS[0]:
        _STOPS.clear()
        raise KeyboardInterrupt
    _CALLS.append(request)
    prompt = request.messages[-1]["content"]
    if prompt.startswith("Make a question"):
        return _question(prompt, request.seed)
    return _final(prompt) if "Facts:" in prompt else _answer(prompt)


def slow(request: TeacherRequest) -> str:
    """As `good`, after a while."""
    time.sleep(0.01)
    return good(request)


def killed(request: TeacherRequest) -> str:
    """As `good`, in a process that is killed at the request whose number the environment says."""
    if len(_CALLS) + 1 == int(os.environ.get("KILL_AT", "0")):
        os.kill(os.getpid(), signal.SIGKILL)
    return good(request)


def malformed_at_first(request: TeacherRequest) -> str:
    """As `good`, but the first two samples of a question lack a line, or say something around the lines."""
    reply = good(request)
    if not reply.startswith(("+ Category", "+ Entity")):
        return reply
    seed = request.seed % 6
    if seed == 1234 % 6:
        return "\n".join(line for line in reply.split("\n") if not line.startswith("+ Paragraph 2"))
    return f"Here it is:\n{reply}" if seed == 1235 % 6 else reply


def always_malformed(request: TeacherRequest) -> str:
    """Never writes the fields of a question."""
    _CALLS.append(request)
    return "I would ask about a bridge."


def hallucinating(request: TeacherRequest) -> str:
    """As `good`, but the multi-hop questions of towers lack the second entity."""
    reply = good(request)
    if 'category "Tower"' not in request.messages[-1]["content"]:
        return reply
    return re.sub(r"(\+ Multi-hop question: .*?) and \S+ Tower", r"\1", reply)


def inventing(request: TeacherRequest) -> str:
    """As `good`, but always says that an answer is there, whatever the paragraph holds."""
    reply = good(request)
    return reply.replace("The paragraph does not say.", "It opened in 1999.")


def unable(request: TeacherRequest) -> str:
    """As `good`, but finds no answer in any paragraph."""
    reply = good(request)
    return re.sub(r"(\+ Answer: ).*", r"\1The paragraph does not say.", reply) if "+ Answer: " in reply else reply


def doubtful(request: TeacherRequest) -> str:
    """As `good`, but says that no question can be answered, whatever the facts are."""
    return good(request).replace("+ Answer: Both are known.", f"+ Answer: {UNKNOWN}")


def boasting(request: TeacherRequest) -> str:
    """As `good`, but answers every question, whatever the facts are."""
    return good(request).replace(UNKNOWN, "Both are known.")


def _question(prompt: str, seed: int) -> str:
    category = re.findall(r'category\s+"([^"]+)"', prompt)[0]
    draw = random.Random(f"{category} {seed}")
    first, second = draw.sample(range(100, 1000), 2)
    names = ATTRIBUTES
    one, other = draw.sample(names, 2)
    fields = re.findall(r"^\+ ([^:]+):", prompt, re.MULTILINE)
    if "Entity" in fields:
        entities, attributes = (f"N{first} {category}",) * 2, (one, other)
    else:
        entities, attributes = (f"N{first} {category}", f"N{second} {category}"), (one, one)
    values = tuple(f"{draw.randint(100, 999)} units" for _ in range(2))
    said = {
        "Category": category, "Entity": entities[0], "Entity 1": entities[0], "Entity 2": entities[1],
        "Common attributes": ", ".join(names), "Attributes": ", ".join(names), "Attribute": one,
        "Selected attribute": one, "Selected attribute 1": one, "Selected attribute 2": other,
        "Multi-hop question": f"How do {attributes[0]} and {attributes[1]} of {entities[0]} and {entities[1]} compare?",
        "Summary": f"One is {values[0]}, the other {values[1]}.", "Reasoning": "Both are known.",
        "Final answer": f"They are {values[0]} and {values[1]}.",
    }  # fmt: skip
    for number, (entity, attribute, value) in enumerate(zip(entities, attributes, values, strict=True), start=1):
        said[f"Question {number}"] = f"What is the {attribute} of the {entity}?"
        said[f"Paragraph {number}"] = f"The {entity} is well known. Its {attribute} is {value}."
        said[f"Reasoning {number}"] = f"The text says that its {attribute} is {value}."
        said[f"Answer {number}"] = f"The {attribute} of the {entity} is {value}."
    return "\n".join(f"+ {name}: {said[name]}" for name in fields)


def _answer(prompt: str) -> str:
    paragraph = re.findall(r"^Paragraph: (.*)$", prompt, re.MULTILINE)[0]
    question = re.findall(r"^Question: (.*)$", prompt, re.MULTILINE)[0]
    none = re.findall(r'exactly "([^"]+)"', prompt)[0]
    asked = re.fullmatch(r"What is the (.+) of the (.+)\?", question)
    if asked is None:
        raise ValueError(question)
    attribute, entity = asked.groups()
    value = re.search(rf"The {re.escape(entity)} is well known\. Its {attribute} is (.*)\.", paragraph)
    if value is None:
        return f"+ Reasoning: It says nothing of the {attribute} of the {entity}.\n+ Answer: {none}"
    return f"+ Reasoning: Its {attribute} is given.\n+ Answer: The {attribute} of the {entity} is {value[1]}."


def _final(prompt: str) -> str:
    facts = re.findall(r"^- .*\? (.*)$", prompt, re.MULTILINE)
    unknown = re.findall(r'exactly "([^"]+)"', prompt)[0]
    known = [one for one in facts if one != "The paragraph does not say."]
    answer = unknown if len(known) < len(facts) else "Both are known."
    return f"+ Summary: {' '.join(facts)}\n+ Reasoning: That is all.\n+ Answer: {answer}"
