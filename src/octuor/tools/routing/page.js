// Chooses layers and tells of the token under the pointer. All texts come from the page's own data, as text, never as HTML.
"use strict";
const { blocks, nLayers } = JSON.parse(document.getElementById("data").textContent);
const about = document.getElementById("about");
const chosen = [...document.querySelectorAll("select[data-column]")];
const percent = (share) => (share >= 0.0995 ? Math.round(100 * share) : (100 * share).toPrecision(2)) + " %";
const quoted = (text) => "“" + text.replace(/\n/g, "↵") + "”";

function paint(column) {
  const layer = Number(chosen[column].value);
  for (const text of document.querySelectorAll(`.text[data-column="${column}"]`)) {
    const { experts } = blocks[text.dataset.block];
    for (const token of text.children) {
      const expert = experts[token.dataset.i][layer][0];
      token.dataset.e = expert;
      token.className = `tok e${expert % 8}`;
    }
  }
}

function tell(token) {
  document.querySelectorAll(".tok.now").forEach((other) => other.classList.remove("now"));
  token.classList.add("now");
  const text = token.parentElement, i = token.dataset.i, block = blocks[text.dataset.block];
  const layer = Number(chosen[text.dataset.column].value);
  const played = block.experts[i][layer].map((e, n) => `${e} (${(block.weights[i][layer][n] / 10).toFixed(1)} %)`);
  const parts = [`token ${i} ${quoted(block.pieces[i])}`, `layer ${layer}: experts ${played.join(" and ")}`];
  if (block.logprobs[i] !== null) parts.push(`probability ${percent(Math.exp(block.logprobs[i]))}`);
  const others = block.alternatives[i].map(([piece, logprob]) => `${quoted(piece)} ${percent(Math.exp(logprob))}`);
  if (others.length) parts.push(`likeliest here: ${others.join(", ")}`);
  about.textContent = parts.join("  ·  ");
}

chosen.forEach((select, column) => select.addEventListener("change", () => paint(column)));
document.getElementById("numbers").addEventListener("change", (event) => document.body.classList.toggle("numbers", event.target.checked));
document.addEventListener("pointerover", (event) => { if (event.target.classList.contains("tok")) tell(event.target); });
for (const text of document.querySelectorAll(".text")) {
  text.addEventListener("focus", () => { if (!text.querySelector(".now")) tell(text.firstElementChild); });
  text.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], now = text.querySelector(".now");
    const next = now && (step === 1 ? now.nextElementSibling : step === -1 ? now.previousElementSibling : null);
    if (step) event.preventDefault();
    if (next) tell(next);
  });
}
