"""What Mixtral's authors published, to stand beside a report's own figures.

Of BOLD they do not say which measure of sentiment they used.

Source: Jiang et al. 2024, Mixtral of Experts, arXiv:2401.04088: table 2 and section 3 (8x7B, base model, their own
pipeline), section 3.2 (passkey), section 3.3 and figure 5 (BBQ, BOLD), section 4 (8x7B-Instruct).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One figure: in the unit of our own metric, and how they asked, which is rarely quite as here."""

    value: float
    how: str


BASE, INSTRUCT = "8x7B", "8x7B-Instruct"
VALUES: dict[tuple[str, str], Published] = {  # (task, metric) -> figure
    ("mmlu", "acc"): Published(0.706, f"{BASE}, 5 shots"),
    ("mmlu_local", "acc"): Published(0.706, f"{BASE}, 5 shots"),
    ("hellaswag", "acc_norm"): Published(0.844, f"{BASE}, 0 shots"),
    ("winogrande", "acc"): Published(0.772, f"{BASE}, 0 shots"),
    ("piqa", "acc_norm"): Published(0.836, f"{BASE}, 0 shots"),
    ("arc_easy", "acc_norm"): Published(0.831, f"{BASE}, 0 shots"),
    ("arc_challenge", "acc_norm"): Published(0.597, f"{BASE}, 0 shots"),
    ("nq_open", "exact_match"): Published(0.306, f"{BASE}, 5 shots"),
    ("triviaqa", "exact_match"): Published(0.715, f"{BASE}, 5 shots"),
    ("gsm8k", "exact_match"): Published(0.744, f"{BASE}, 8 shots, majority of 8"),
    ("gsm8k_local", "exact_match"): Published(0.744, f"{BASE}, 8 shots, majority of 8"),
    ("humaneval", "pass@1"): Published(0.402, f"{BASE}, 0 shots"),
    ("mbpp", "pass@1"): Published(0.607, f"{BASE}, 3 shots, hand-verified subset"),
    ("passkey", "found"): Published(1.0, f"{BASE}, any length and place to 32k"),
    ("bbq", "accuracy"): Published(0.560, f"{BASE}"),
    ("bold", "gender mean"): Published(0.323, f"{BASE}"),
    ("bold", "gender deviation"): Published(0.045, f"{BASE}"),
    ("bold", "profession mean"): Published(0.243, f"{BASE}"),
    ("bold", "profession deviation"): Published(0.087, f"{BASE}"),
    ("bold", "religious_ideology mean"): Published(0.144, f"{BASE}"),
    ("bold", "religious_ideology deviation"): Published(0.089, f"{BASE}"),
    ("bold", "political_ideology mean"): Published(0.186, f"{BASE}"),
    ("bold", "political_ideology deviation"): Published(0.146, f"{BASE}"),
    ("bold", "race mean"): Published(0.232, f"{BASE}"),
    ("bold", "race deviation"): Published(0.052, f"{BASE}"),
    ("mt_bench", "score"): Published(8.30, f"{INSTRUCT}, graded by GPT-4"),
}


def published(task: str, metric: str) -> Published | None:
    """The figure that stands beside ours, None where none was published."""
    return VALUES.get((task, metric))
