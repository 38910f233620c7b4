"""Knowledge or behaviour: which of the two is at fault for a wrong answer, whose it is, and what to do.

A suite case says what a right answer holds, so the four arms and the passages decide:

    right                     -> ok, or style when the house style is broken
    unanswerable, answered    -> over_answer, or stale_document when a withdrawn text was quoted
    answer not in the prompt  -> missing_document, stale_document or retrieval: knowledge
    in the prompt, declined   -> over_decline
    in the prompt, wrong      -> adapter when `rag` has it right: behaviour; else reading

Single answers out of the receipts, without such keys, are diagnosed by `eval.replay`.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Literal

from eval.arms import ADMIN
from eval.library import DocumentVersion, Library
from eval.matching import found, holds_all, strip_markers
from eval.outcome import Outcome
from tandem.errors import InputError
from tandem.schemas import Answer, Arm, Passage, Value, uses_adapter, uses_retrieval

Label = Literal[
    "ok",
    "missing_document",
    "retrieval",
    "stale_document",
    "reading",
    "adapter",
    "style",
    "over_decline",
    "over_answer",
]
Owner = Literal["document owner", "style curator", "platform engineer"]


class Verdict(Value):
    """A label with its reason, its owner and the next step. `owner` is None only for `ok`."""

    label: Label
    evidence: str
    owner: Owner | None = None
    action: str = "Nothing to do."


class Diagnosis(Verdict):
    """A verdict about one answer. `subject` is the case's id, or the answer's."""

    subject: str
    question: str
    arm: Arm


def diagnose_suite(outcomes: Sequence[Outcome], library: Library | None = None, arm: Arm = "tandem") -> list[Diagnosis]:
    """Diagnoses every case of a run that `arm` answered, in order.

    Args:
        outcomes: Of a run; with `rag` among its arms, model and adapter can be told apart.
        library: The documents; without them, missing and badly retrieved documents are told apart by the passages only.
        arm: The arm to diagnose, `tandem` or `rag`.

    Raises:
        InputError: The arm answers without documents, so there is nothing to tell apart.
    """
    if not uses_retrieval(arm):
        raise InputError(f"The arm {arm!r} answers without documents: diagnose 'tandem' or 'rag'.")
    cases: dict[str, dict[Arm, Outcome]] = {}
    for outcome in outcomes:
        cases.setdefault(outcome.case.id, {})[outcome.arm] = outcome
    verdicts = (diagnose_case(arms, library or Library(), arm) for arms in cases.values())
    return [verdict for verdict in verdicts if verdict is not None]


def diagnose_case(arms: Mapping[Arm, Outcome], library: Library, arm: Arm = "tandem") -> Diagnosis | None:
    """Diagnoses one case from its outcomes in the arms.

    Returns:
        None when `arm` gave no answer: that is an error of the run, not a label.
    """
    outcome = arms.get(arm)
    if outcome is None or outcome.answer is None:
        return None
    if outcome.right:
        verdict = judge_style(outcome)
    elif outcome.case.answerable:
        verdict = _wrong(outcome, outcome.answer, arms, library)
    else:
        verdict = _answered_anyway(outcome, outcome.answer, arms, library)
    return Diagnosis(subject=outcome.case.id, question=outcome.case.question, arm=arm, **verdict.model_dump())


def judge_style(outcome: Outcome) -> Verdict:
    """`style` when a right answer breaks the house style, else `ok`."""
    if outcome.style is None or not outcome.style.broken:
        return Verdict(label="ok", evidence="The answer is right.")
    return style_verdict(outcome.arm, " ".join(outcome.style.broken))


def style_verdict(arm: Arm, complaint: str) -> Verdict:
    """The verdict on an answer whose facts are right and whose style is not."""
    if not uses_adapter(arm):
        return Verdict(
            label="style",
            evidence=f"The facts are right. {complaint}",
            owner="platform engineer",
            action="Answer with the model `tandem`: this arm has no adapter to give it the house style.",
        )
    return Verdict(
        label="style",
        evidence=f"The facts are right. {complaint}",
        owner="style curator",
        action="Add approved style examples of this kind and run `tandem train`.",
    )


def _wrong(outcome: Outcome, answer: Answer, arms: Mapping[Arm, Outcome], library: Library) -> Verdict:
    """An answerable case that was answered wrongly or declined."""
    case = outcome.case
    given = _given(answer.passages)
    if not holds_all(given, case.all_of):
        return _not_in_prompt(outcome, answer, library)
    rag = arms.get("rag")
    rag_right = outcome.arm != "rag" and rag is not None and rag.right
    if answer.declined:
        return _declined_anyway(rag_right)
    if withdrawn := _withdrawn(outcome, answer, library):
        return withdrawn
    if rag_right:
        return Verdict(
            label="adapter",
            evidence="The evidence was in the prompt; without the adapter the same model gave the right answer.",
            owner="style curator",
            action="Add style examples like this question, with its kind of sources, and train again; "
            "until then `tandem adapters rollback` restores the one before.",
        )
    if answer.read_alone and not holds_all(answer.read_alone, case.all_of):
        return Verdict(
            label="reading",
            evidence="The evidence was chosen, but before the model was asked about it, it answered from "
            f"{answer.read_alone!r}.",
            owner="platform engineer",
            action="Show it all sentences at once (TANDEM_RETRIEVAL__BEST_ALONE=false) and compare with `tandem eval`, "
            "or take a larger base model.",
        )
    without = "without the adapter it is wrong too" if rag is not None and outcome.arm != "rag" else "it was misread"
    return Verdict(
        label="reading",
        evidence=f"The evidence was in the prompt and the answer is wrong; {without}.",
        owner="platform engineer",
        action="Try fewer or other evidence sentences (TANDEM_RETRIEVAL__SENTENCES) or a larger base model.",
    )


def _declined_anyway(rag_right: bool) -> Verdict:
    if rag_right:
        return Verdict(
            label="over_decline",
            evidence="The evidence was in the prompt; with the adapter it was declined, without it answered.",
            owner="style curator",
            action="Lower the share of declining examples, or add answered ones of this kind, and train again.",
        )
    return Verdict(
        label="over_decline",
        evidence="The evidence was in the prompt and the answer declined.",
        owner="platform engineer",
        action="Lower TANDEM_RETRIEVAL__MIN_SIMILARITY if the model was not even asked, else try a larger base model.",
    )


def _answered_anyway(outcome: Outcome, answer: Answer, arms: Mapping[Arm, Outcome], library: Library) -> Verdict:
    """An unanswerable case that was not declined, or not cleanly."""
    if withdrawn := _withdrawn(outcome, answer, library):
        return withdrawn
    rag = arms.get("rag")
    if outcome.arm != "rag" and rag is not None and rag.right:
        return Verdict(
            label="over_answer",
            evidence="No document answers it; without the adapter it was declined, with it answered.",
            owner="style curator",
            action="Add examples whose sources lack the answer and that decline, and train again.",
        )
    return Verdict(
        label="over_answer",
        evidence="No document answers it, and it was answered all the same.",
        owner="platform engineer",
        action="Raise TANDEM_RETRIEVAL__MIN_SIMILARITY, and see with `tandem eval` that the others stay answered.",
    )


def _withdrawn(outcome: Outcome, answer: Answer, library: Library) -> Verdict | None:
    """A superseded string in the answer that came out of a passage whose version is not in force on that day."""
    said = found(strip_markers(answer.text), outcome.case.none_of)
    for passage in answer.passages if library else ():
        old = found(passage.quote, said)
        if old and not _still_says(library, passage, answer.as_of, old):
            return Verdict(
                label="stale_document",
                evidence=f"{old[0]!r} was quoted from a version of {passage.document_id!r} that is not in force on "
                f"{answer.as_of}.",
                owner="platform engineer",
                action="Run `tandem ingest` on the documents: it brings index and database together again.",
            )
    return None


def _still_says(library: Library, passage: Passage, day: date, strings: Sequence[str]) -> bool:
    """Whether what a passage says is in force. The HTTP contract's passages name no version: the text decides then."""
    if passage.version_id:
        version = library.version(passage.version_id)
        return version is not None and version.in_force(day)
    current = library.current(passage.document_id, day)
    return current is not None and bool(found(current.text, strings))


def _not_in_prompt(outcome: Outcome, answer: Answer, library: Library) -> Verdict:
    """The prompt lacked the answer: is there no document, an old one, or was it not found?"""
    case = outcome.case
    if withdrawn := _withdrawn(outcome, answer, library):
        return withdrawn
    if not library:
        return _without_library(outcome, answer)
    everywhere = library.in_force(answer.as_of)
    candidates = [version for version in everywhere if not case.evidence or version.document_id in case.evidence]
    holders = _holders(candidates, case.all_of)
    if not holders:
        return _nowhere(outcome, answer, library, candidates)
    readers = case.principal(ADMIN)
    closed = [version for version in holders if not version.readable(readers)]
    if closed:
        return Verdict(
            label="missing_document",
            evidence=f"{closed[0].document_id!r} answers it, but {sorted(readers.groups)} may not read it.",
            owner="document owner",
            action="Add one of these groups to the document if they are to have the answer, else correct the suite.",
        )
    names = ", ".join(repr(version.document_id) for version in holders[:3])
    retrieved = {passage.document_id for passage in answer.passages}
    if any(version.document_id in retrieved for version in holders):
        return Verdict(
            label="retrieval",
            evidence=f"{names} was among the passages, but not the sentences that answer.",
            owner="platform engineer",
            action="Raise TANDEM_RETRIEVAL__SENTENCES or TANDEM_RETRIEVAL__PER_DOCUMENT, or give whole passages "
            "(TANDEM_RETRIEVAL__EVIDENCE=passages).",
        )
    return Verdict(
        label="retrieval",
        evidence=f"{names} answers it and was not among the passages ({_names(answer.passages)}).",
        owner="platform engineer",
        action="Raise TANDEM_RETRIEVAL__TOP_K, or have the document's headings name the subject in the readers' words.",
    )


def _nowhere(outcome: Outcome, answer: Answer, library: Library, candidates: Sequence[DocumentVersion]) -> Verdict:
    """No document in force holds the answer."""
    case = outcome.case
    for version in candidates if case.evidence else ():
        if old := found(version.text, case.none_of):
            return Verdict(
                label="stale_document",
                evidence=f"{version.document_id!r}, in force on {answer.as_of}, still says {old[0]!r}.",
                owner="document owner",
                action=f"Publish the current text of {version.document_id!r}{_by(version)} and ingest it.",
            )
    for document_id in case.evidence:
        for version in reversed(library.of(document_id)):
            if not version.in_force(answer.as_of) and holds_all(version.text, case.all_of):
                return Verdict(
                    label="stale_document",
                    evidence=f"A version of {document_id!r} that is not in force on {answer.as_of} holds the answer.",
                    owner="document owner",
                    action=f"Check the effective dates of {document_id!r}{_by(version)}.",
                )
    if (said := found(strip_markers(answer.text), case.none_of)) and (source := _source(answer.passages, said)):
        return Verdict(
            label="stale_document",
            evidence=f"No document holds the current answer, and {source.document_id!r} says {said[0]!r}.",
            owner="document owner",
            action=f"Bring {source.document_id!r} up to date and ingest it.",
        )
    where = f"none of {list(case.evidence)} does" if case.evidence else "none does"
    return Verdict(
        label="missing_document",
        evidence=f"No document in force on {answer.as_of} holds the answer; {where}.",
        owner="document owner",
        action="Write the answer into a document and ingest it; if it is there, see the last run for a refused file.",
    )


def _without_library(outcome: Outcome, answer: Answer) -> Verdict:
    case = outcome.case
    said = found(strip_markers(answer.text), case.none_of)
    if source := _source(answer.passages, said):
        return Verdict(
            label="stale_document",
            evidence=f"The passage from {source.document_id!r} says {said[0]!r}, which is superseded.",
            owner="document owner",
            action=f"Bring {source.document_id!r} up to date and ingest it.",
        )
    if not answer.passages:
        return Verdict(
            label="missing_document",
            evidence="Nothing was retrieved.",
            owner="document owner",
            action="Ingest a document that answers it, readable by these groups.",
        )
    return Verdict(
        label="retrieval",
        evidence=f"The answer was not in the passages ({_names(answer.passages)}).",
        owner="platform engineer",
        action="Raise TANDEM_RETRIEVAL__TOP_K, and see with `tandem documents list` that the document is there.",
    )


def _holders(versions: Sequence[DocumentVersion], groups: Sequence[Sequence[str]]) -> list[DocumentVersion]:
    """The versions that hold the answer; several together when no single one does."""
    whole = [version for version in versions if holds_all(version.text, groups)]
    if whole or not holds_all("\n".join(version.text for version in versions), groups):
        return whole
    return [version for version in versions if any(found(version.text, group) for group in groups)]


def _given(passages: Sequence[Passage]) -> str:
    """What stood in the prompt."""
    return "\n".join(f"{passage.title}\n{passage.heading}\n{passage.quote}" for passage in passages)


def _source(passages: Sequence[Passage], said: Sequence[str]) -> Passage | None:
    return next((passage for passage in passages if found(passage.quote, said)), None)


def _names(passages: Sequence[Passage]) -> str:
    return ", ".join(dict.fromkeys(passage.document_id for passage in passages)) or "there were none"


def _by(version: DocumentVersion) -> str:
    return f" (owner: {version.owner})" if version.owner else ""
