"""Diagnoses answers that people got: the receipt, what readers said of it, and the same question asked again.

There are no keys to judge by here. The judge is lexical: whether the passages bear out what the answer states, figure
by figure and by half its words, and whether they speak of what the question asks.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date

from eval.arms import ADMIN, Answering, collect
from eval.diagnose import Diagnosis, Verdict, style_verdict
from eval.library import Library
from eval.receipts import Receipt
from eval.style import score
from eval.support import claims, coverage, supported_share
from tandem.errors import TandemError
from tandem.schemas import ARMS, Answer, Arm, Ask, Message, Passage, Principal, uses_adapter, uses_retrieval
from tandem.style import StyleGuide

# Share of a question's content words that the passages must hold to count as being about it.
COVERED = 0.5
# How much better another document must cover the question to be taken for the one that was missed.
MARGIN = 0.2


async def diagnose_receipt(
    receipt: Receipt,
    assistant: Answering,
    library: Library,
    *,
    style: StyleGuide | None = None,
    principal: Principal = ADMIN,
    today: date,
    timeout: float = 300.0,
) -> Diagnosis:
    """Asks the receipt's question again in the four arms, for the same day, and judges.

    Args:
        receipt: The answer in question.
        assistant: Who answers.
        library: The documents.
        style: The house style.
        principal: As whom to ask again. The receipt does not keep the groups of who asked.
        today: The day against which an answer counts as outdated, unless it was asked for a certain day.
        timeout: Seconds for each of the four.
    """
    replays = await replay(receipt, assistant, principal=principal, timeout=timeout)
    verdict = await asyncio.to_thread(judge_receipt, receipt, replays, library, style, principal, today)
    return Diagnosis(
        subject=receipt.answer.answer_id, question=receipt.question, arm=receipt.answer.arm, **verdict.model_dump()
    )


async def replay(
    receipt: Receipt, assistant: Answering, *, principal: Principal = ADMIN, timeout: float = 300.0
) -> dict[Arm, Answer]:
    """The same question in each arm. An arm that fails, or answers degraded, is left out."""
    answers: dict[Arm, Answer] = {}
    for arm in ARMS:
        ask = Ask(
            messages=(*receipt.history, Message(role="user", content=receipt.question)),
            arm=arm,
            principal=principal,
            as_of=receipt.answer.as_of,
            instructions=receipt.instructions,
        )
        try:
            async with asyncio.timeout(timeout):
                answer = await collect(assistant, ask)
        except (TandemError, TimeoutError):
            continue  # the verdict rests on the arms that answer
        if answer.degraded is None:
            answers[arm] = answer
    return answers


def judge_receipt(
    receipt: Receipt,
    replays: Mapping[Arm, Answer],
    library: Library,
    style: StyleGuide | None,
    principal: Principal,
    today: date,
) -> Verdict:
    """Judges one answer by its receipt, its feedback and its replays; see `diagnose_receipt`."""
    answer = receipt.answer
    if answer.degraded is not None:
        return _degraded(answer)
    if not uses_retrieval(answer.arm):
        return Verdict(
            label="retrieval",
            evidence=f"The arm {answer.arm!r} answers without documents.",
            owner="platform engineer",
            action="Ask the model `tandem`, which reads the documents first.",
        )
    closing = style.closing_line if style else ""
    if answer.declined:
        return _declined(receipt, replays, library, principal, closing)
    if outdated := _outdated(receipt, library, closing, today):
        return outdated
    covered = _coverage(receipt.question, answer.passages)
    if not _borne_out(answer, closing):
        return _made_up(answer, replays, covered, closing)
    if receipt.complaint("facts"):
        return _disputed(receipt, library, covered, principal)
    broken = score(answer.text, style).broken if style else ()
    if broken or receipt.complaint("tone"):
        return style_verdict(answer.arm, " ".join(broken) or "A reader did not like the tone.")
    return Verdict(label="ok", evidence="The passages bear out what it says, and nobody complained of the facts.")


def _degraded(answer: Answer) -> Verdict:
    if answer.degraded == "no_adapter":
        return Verdict(
            label="adapter",
            evidence="The adapter did not answer; the base model did.",
            owner="platform engineer",
            action="See `tandem adapters list` for the active version, and the server's log for why it was not loaded.",
        )
    if answer.degraded == "broken":
        return Verdict(
            label="adapter",
            evidence="The adapter did not bring its answer to an end.",
            owner="platform engineer",
            action="See that the model server runs (`/readyz`) and what its log says, then ask again.",
        )
    return Verdict(
        label="reading",
        evidence="The model did not answer; passages were shown instead.",
        owner="platform engineer",
        action="See that the model server runs (`/readyz`), then ask again.",
    )


def _declined(
    receipt: Receipt, replays: Mapping[Arm, Answer], library: Library, principal: Principal, closing: str
) -> Verdict:
    answer = receipt.answer
    rag = replays.get("rag")
    covered = _coverage(receipt.question, answer.passages)
    if (
        uses_adapter(answer.arm)
        and rag is not None
        and not rag.declined
        and covered >= COVERED
        and _borne_out(rag, closing)
    ):
        return Verdict(
            label="over_decline",
            evidence=f"Without the adapter it is answered from the same documents: {rag.text[:160]!r}.",
            owner="style curator",
            action="Lower the share of declining examples, or add answered ones of this kind, and train again.",
        )
    best = library.search(receipt.question, answer.as_of, principal)
    if best is not None and best.share >= COVERED and best.share >= covered + MARGIN:
        return _missed(best.version.document_id, best.share, answer.passages)
    if receipt.complaint("facts", "") and covered >= COVERED:
        return Verdict(
            label="over_decline",
            evidence=f"A reader objects to the decline; the passages hold {covered:.0%} of the question's words.",
            owner="platform engineer",
            action="Lower TANDEM_RETRIEVAL__MIN_SIMILARITY if the model was not even asked, else try a larger model.",
        )
    return Verdict(
        label="missing_document",
        evidence=f"It declined, and no document was found to answer it ({len(answer.passages)} passages retrieved).",
        owner="document owner",
        action="Write the answer into a document and ingest it, or leave the decline if it is none of its business.",
    )


def _outdated(receipt: Receipt, library: Library, closing: str, today: date) -> Verdict | None:
    """What it says stands in a version that has been replaced, and no longer in the one in force."""
    answer = receipt.answer
    day = receipt.dated or today
    for passage in answer.citations or answer.passages:
        version = library.version(passage.version_id)
        if not library or (version is not None and version.in_force(day)):
            continue
        current = library.current(passage.document_id, day)
        statements = claims(answer.text, closing)
        if current is not None:
            now = passage.model_copy(update={"quote": current.text})
            if supported_share(statements, [now]) == 1:
                continue  # replaced, but it still says so
        what = "was replaced" if current is not None else "is no longer there"
        return Verdict(
            label="stale_document",
            evidence=f"It rests on a version of {passage.document_id!r} that {what} by {day}.",
            owner="document owner",
            action="Ask again for today's answer; tell those who relied on the old one if the change matters to them.",
        )
    return None


def _made_up(answer: Answer, replays: Mapping[Arm, Answer], covered: float, closing: str) -> Verdict:
    """It states what no passage bears out."""
    rag = replays.get("rag") if uses_adapter(answer.arm) else None
    if covered < COVERED:
        curator = rag is not None and rag.declined
        return Verdict(
            label="over_answer",
            evidence=f"The passages hold {covered:.0%} of the question's words and do not bear out the answer"
            + ("; without the adapter it is declined." if curator else "."),
            owner="style curator" if curator else "platform engineer",
            action="Add examples whose sources lack the answer and that decline, and train again."
            if curator
            else "Raise TANDEM_RETRIEVAL__MIN_SIMILARITY, or ingest a document that answers it.",
        )
    if rag is not None and not rag.declined and _borne_out(rag, closing):
        return Verdict(
            label="adapter",
            evidence=f"No passage bears out what it says; without the adapter the answer is: {rag.text[:160]!r}.",
            owner="style curator",
            action="Add style examples like this question, with its kind of sources, and train again; "
            "until then `tandem adapters rollback` restores the one before.",
        )
    return Verdict(
        label="reading",
        evidence="The passages are about the question, and the answer states what none of them bears out.",
        owner="platform engineer",
        action="Try fewer or other evidence sentences (TANDEM_RETRIEVAL__SENTENCES) or a larger base model.",
    )


def _disputed(receipt: Receipt, library: Library, covered: float, principal: Principal) -> Verdict:
    """It says what its passages say, and a reader says that the facts are wrong."""
    answer = receipt.answer
    best = library.search(receipt.question, answer.as_of, principal)
    if best is not None and best.share >= COVERED and best.share >= covered + MARGIN:
        return _missed(best.version.document_id, best.share, answer.passages)
    if covered < COVERED:
        return Verdict(
            label="missing_document",
            evidence=f"Its passages hold {covered:.0%} of the question's words, and no document holds more.",
            owner="document owner",
            action="Write the answer into a document and ingest it.",
        )
    said = ", ".join(dict.fromkeys(passage.document_id for passage in answer.citations or answer.passages))
    return Verdict(
        label="stale_document",
        evidence=f"It says what {said} says, and a reader objects to the facts.",
        owner="document owner",
        action=f"Check {said}: if the reader is right, correct it and ingest it.",
    )


def _missed(document_id: str, share: float, passages: Sequence[Passage]) -> Verdict:
    there = any(passage.document_id == document_id for passage in passages)
    return Verdict(
        label="retrieval",
        evidence=f"A stretch of {document_id!r} holds {share:.0%} of the question's words and was not "
        + ("the one among the passages." if there else "among the passages."),
        owner="platform engineer",
        action="Raise TANDEM_RETRIEVAL__TOP_K, or have the document's headings name the subject in the readers' words.",
    )


def _coverage(question: str, passages: Sequence[Passage]) -> float:
    """Share of the question's content words in the passages; 0 without any."""
    texts = (f"{passage.title}\n{passage.heading}\n{passage.text or passage.quote}" for passage in passages)
    return coverage(question, "\n".join(texts)) if passages else 0.0


def _borne_out(answer: Answer, closing: str) -> bool:
    return supported_share(claims(answer.text, closing), answer.passages) == 1
