"""HumanEval and MBPP: programs that the model writes, run in the sandbox against each problem's own tests.

Sources: Chen et al. 2021, arXiv:2107.03374 (HumanEval, pass@k); Austin et al. 2021, arXiv:2108.07732 (MBPP).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from octuor.evaluate.result import Document, Example, TaskResult
from octuor.evaluate.sandbox import Limits, Outcome, Sandbox
from octuor.evaluate.setting import Setting, read_rows
from octuor.evaluate.statistics import make_metric, pass_at_k
from octuor.evaluate.subject import Reply, Subject, Wish
from octuor.sampling import SamplingParams
from octuor.tokenizer import encode_chat, encode_prompt

KS = (1, 10, 100)
MAX_TOKENS = 512
TEMPERATURE, TOP_P = 0.8, 0.95  # where several programs a problem are drawn
ENDS_OF_FUNCTION = ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n@")
CODE_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Problem:
    """One problem.

    prompt   what a base model continues
    request  what a chat is asked
    before   goes before the answer where a base model gave it, as a part of the program
    tests    goes after it
    """

    id: str
    prompt: str
    request: str
    before: str
    tests: str
    stop: tuple[str, ...]


class HumanEval:
    """Functions to complete, from humaneval.jsonl."""

    name = "humaneval"
    about = "Functions completed from their description, right if they pass the problem's own tests."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """pass@k over the problems."""
        problems = []
        for row in read_rows(
            setting.file("humaneval.jsonl", "HumanEval.jsonl"), "task_id", "prompt", "test", "entry_point"
        ):
            tests = f"\n{row['test']}\ncheck({row['entry_point']})\n"
            request = (
                f"Complete this Python function. Answer with the whole function in one code block.\n\n{row['prompt']}"
            )
            problems.append(
                Problem(str(row["task_id"]), row["prompt"], request, row["prompt"], tests, ENDS_OF_FUNCTION)
            )
        return run_problems(self.name, self.about, problems[: setting.limit], 0, subject, setting)


class Mbpp:
    """Functions from a sentence and three tests, from mbpp.jsonl: ids 11 to 510, 2 to 4 as examples."""

    name = "mbpp"
    about = "Functions written from a sentence and three tests (ids 11 to 510), right if they pass the tests."

    def run(self, subject: Subject, setting: Setting) -> TaskResult:
        """pass@k over the problems."""
        rows = {
            int(row["task_id"]): row
            for row in read_rows(setting.file("mbpp.jsonl"), "task_id", "text", "code", "test_list")
        }
        shots = 3 if setting.shots is None else setting.shots
        examples = "".join(
            f"{self._task(rows[n]['text'], rows[n]['test_list'])}[BEGIN]\n{rows[n]['code']}\n[DONE]\n\n"
            for n in range(2, 2 + shots)
            if n in rows
        )
        problems = []
        for n in sorted(n for n in rows if 11 <= n <= 510):
            row = rows[n]
            task = self._task(row["text"], row["test_list"])
            tests = "\n".join(("", row.get("test_setup_code") or "", *row["test_list"], ""))
            request = f"{task}Answer with the code alone, in one code block."
            problems.append(Problem(str(n), f"{examples}{task}[BEGIN]\n", request, "", tests, ("[DONE]", "\n[BEGIN]")))
        return run_problems(self.name, self.about, problems[: setting.limit], shots, subject, setting)

    def _task(self, text: str, tests: Sequence[str]) -> str:
        asked = f"You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:"
        return "\n".join((asked, "", *tests, ""))


def run_problems(
    name: str, about: str, problems: Sequence[Problem], shots: int, subject: Subject, setting: Setting
) -> TaskResult:
    """Have programs written, run them, and count."""
    sandbox = Sandbox(Limits(), is_unsafe=setting.is_unsafe)  # before anything is asked, for it may refuse
    each = setting.n_samples
    wishes = [_wish(subject, problem, k, setting) for problem in problems for k in range(each)]
    replies = subject.answer(wishes, lambda done, total: setting.tell("programs", done, total))
    asked = [problem for problem in problems for _ in range(each)]
    programs = [program_of(problem, reply, setting.chat) for problem, reply in zip(asked, replies, strict=True)]
    outcomes = sandbox.run_all(programs, lambda done: setting.tell("tests", done, len(programs)))
    documents = []
    for n, problem in enumerate(problems):
        n_right = sum(found.result == "passed" for found in outcomes[n * each : (n + 1) * each])
        documents.append(Document(problem.id, {f"pass@{k}": pass_at_k(each, n_right, k) for k in KS if k <= each}))
    metrics = tuple(make_metric(f"pass@{k}", documents) for k in KS if k <= each)
    return TaskResult(
        name,
        about,
        metrics,
        tuple(documents),
        tuple(
            _example(n, asked, replies, outcomes, documents[n // each])
            for n in range(0, min(3 * each, len(asked)), each)
        ),
        {
            "shots": shots,
            "programs a problem": each,
            "temperature": _temperature(setting),
            "tokens": MAX_TOKENS,
            "chat": setting.chat,
            "isolated": sandbox.is_isolated,
            "outcomes": {
                kind: sum(found.result == kind for found in outcomes) for kind in sorted({o.result for o in outcomes})
            },
        },
    )


def program_of(problem: Problem, reply: Reply, is_chat: bool) -> str:
    """The program that is run: an answer's first code block in a chat, else the prompt gone on with, and the tests."""
    if not is_chat:
        return problem.before + reply.text + "\n" + problem.tests
    block = CODE_BLOCK.search(reply.text)
    return (reply.text if block is None else block[1]) + "\n" + problem.tests


def _wish(subject: Subject, problem: Problem, k: int, setting: Setting) -> Wish:
    room = min(MAX_TOKENS, max(1, subject.n_context // 2))
    params = SamplingParams(
        temperature=_temperature(setting),
        top_p=1.0 if setting.n_samples == 1 else TOP_P,
        max_tokens=room,
        stop=() if setting.chat else problem.stop,
        seed=(setting.seed << 32) + k,
    )
    if setting.chat:
        ids = encode_chat(subject.tokenizer, [{"role": "user", "content": problem.request}])
        return Wish(tuple(ids), params, is_chat=True)
    return Wish(tuple(encode_prompt(subject.tokenizer, problem.prompt)), params)


def _temperature(setting: Setting) -> float:
    return 0.0 if setting.n_samples == 1 else TEMPERATURE


def _example(
    n: int, asked: Sequence[Problem], replies: Sequence[Reply], outcomes: Sequence[Outcome], document: Document
) -> Example:
    said = f"{replies[n].text}\n\n[{outcomes[n].result}]\n{outcomes[n].output}"
    return Example(document.id, asked[n].prompt, said, asked[n].tests, document.scores)
