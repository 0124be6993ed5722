"""What a server may want of its client before it answers, and what it then gets: results and parameters of 2026-07-28.

    {"resultType": "input_required", "requestState": "…", "inputRequests": {
        "sure": {"method": "elicitation/create", "params": {"message": "Really?", "requestedSchema": {…}}}}}

Whoever asks is the server, and whoever is asked is a person, a model or a disk beside the agent. Only questions of a form (no URL to open),
of a model and of roots are known.

Source: Model Context Protocol 2026-07-28, basic/patterns/mrtr; schema.ts InputRequiredResult, InputResponseRequestParams.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from writ.formats.errors import FormatError
from writ.formats.mcp.protocol import object_of
from writ.formats.strict import Fields

INPUT_REQUIRED: Final = "input_required"
KINDS: Final = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What is wanted, by its method: the name of the client's capability, and of the thing that is decided."""
MAX_QUESTIONS: Final = 16
MAX_STATE: Final = 64 << 10
"""Characters."""


@dataclass(frozen=True, slots=True)
class InputRequired:
    """A result that is none yet: each question by its key, with its kind and as it is to be passed on; the state to come back, unread."""

    questions: Mapping[str, tuple[str, Mapping[str, Any]]]
    state: str | None

    @property
    def result(self) -> dict[str, Any]:
        """As it is passed on."""
        asked = {"inputRequests": {key: one for key, (_, one) in self.questions.items()}} if self.questions else {}
        return {**asked, **({} if self.state is None else {"requestState": self.state})}


def parse_input_required(result: Mapping[str, Any], what: str) -> InputRequired:
    """Read a result that wants input first. Raises FormatError, also for one that asks what the client has not offered to be asked."""
    state = result.get("requestState")
    asked = object_of(result.get("inputRequests", {}), f"{what}.inputRequests")
    if (state is not None and (not isinstance(state, str) or len(state) > MAX_STATE)) or (state is None and not asked):
        raise FormatError(what, f"questions, or a state of at most {MAX_STATE} characters", "neither")
    if len(asked) > MAX_QUESTIONS:
        raise FormatError(f"{what}.inputRequests", f"at most {MAX_QUESTIONS}", f"{len(asked)}")
    return InputRequired({_key(key, what): _question(one, f"{what}.inputRequests") for key, one in asked.items()}, state)


def _question(value: object, what: str) -> tuple[str, Mapping[str, Any]]:
    f = Fields(value, what)
    method = f.text("method")
    if method not in KINDS:
        raise FormatError(f"{what}.method", ", ".join(KINDS), repr(method)[:60])
    params = {
        name: one for name, one in (object_of(f.any("params"), f"{what}.params") if f.has("params") else {}).items() if name != "_meta"
    }
    f.done()
    if method == "elicitation/create" and (params.get("mode", "form") != "form" or not isinstance(params.get("message"), str)):
        raise FormatError(f"{what}.params", "a question of a form, with its message", repr(params.get("mode"))[:40])
    return KINDS[method], {"method": method, **({"params": params} if params else {})}


def _key(key: str, what: str) -> str:
    if not 1 <= len(key) <= 128:
        raise FormatError(f"{what}.inputRequests", "keys of 1 to 128 characters", f"{len(key)}")
    return key


def parse_input(f: Fields) -> dict[str, Any]:
    """What a client answers, and the state that comes back, of the parameters of its second try. Raises FormatError."""
    found: dict[str, Any] = {}
    if f.has("inputResponses"):
        answers = object_of(f.any("inputResponses"), "params.inputResponses")
        if len(answers) > MAX_QUESTIONS or not all(isinstance(one, dict) for one in answers.values()):
            raise FormatError("params.inputResponses", f"at most {MAX_QUESTIONS} objects", "others")
        found["inputResponses"] = {_key(key, "params"): one for key, one in answers.items()}
    if f.has("requestState"):
        found["requestState"] = f.text("requestState", most=MAX_STATE)
    return found


def offered(capabilities: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of questions that a client says it takes: of elicitation, forms only."""
    kinds = {kind for kind in KINDS.values() if isinstance(capabilities.get(kind), dict)}
    forms = capabilities.get("elicitation")
    if isinstance(forms, dict) and forms and "form" not in forms:
        kinds.discard("elicitation")
    return frozenset(kinds)


def capabilities_of(kinds: Iterable[str]) -> dict[str, Any]:
    """What a server is told that its client takes."""
    return {kind: {"form": {}} if kind == "elicitation" else {} for kind in sorted(kinds)}
