// The view of routes: colours tokens by a layer's first expert and tells of the token under pointer, finger or focus.
// The server may put another view in the place of one at any time; it is coloured then. Everything that is shown comes in
// as text and is put in as text.
(() => {
  const views = document.getElementsByClassName("octuor-routing");
  let layer = 0, lit = null, at = null, known = null, seen = null;

  const view = () => views[0];
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

  function data() {
    const found = view();
    if (!found || !found.dataset.routes) return null;
    if (!known || known.source !== found.dataset.routes) {
      known = {
        source: found.dataset.routes, routes: bytes(found.dataset.routes), weights: bytes(found.dataset.weights),
        nLayers: +found.dataset.layers, nChosen: +found.dataset.chosen, nExperts: +found.dataset.experts,
        words: JSON.parse(found.dataset.words),
      };
    }
    return known;
  }

  const percent = (share) => (100 * share).toFixed(1).replace(".", known.words.decimal) + "\u202f%";
  const fill = (text, values) => text.replace(/{(\w+)}/g, (_, name) => values[name]);
  const expertAt = (token, inLayer, choice = 0) =>
    known.routes[(token * known.nLayers + inLayer) * known.nChosen + choice];

  function colour() {
    const known = data();
    if (!known) return;
    layer = Math.min(Math.max(layer, 0), known.nLayers - 1);
    const root = view(), counts = new Array(known.nExperts).fill(0), tokens = root.querySelectorAll(".text .tok");
    for (const token of tokens) {
      const expert = expertAt(+token.dataset.i, layer);
      token.dataset.e = expert;
      token.classList.toggle("dim", lit !== null && lit !== expert);
      counts[expert]++;
    }
    for (const key of root.querySelectorAll(".key")) {
      key.querySelector("b").textContent = percent(counts[+key.dataset.e] / Math.max(tokens.length, 1));
      key.setAttribute("aria-pressed", lit === +key.dataset.e);
    }
    const slider = root.querySelector(".layers input");
    slider.value = layer;
    root.querySelector(".layers output").textContent = layer;
    for (const each of root.querySelectorAll("[data-l]")) each.classList.toggle("here", +each.dataset.l === layer);
    if (at && at.matches(".tok")) tell(at);
  }

  function add(parent, kind, name, text) {
    const made = document.createElement(kind);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  function row(parent, name, share, expert) {
    const made = add(parent, "div", "row");
    add(made, "span", "", name);
    const meter = add(add(made, "div", "meter"), "i");
    meter.style.width = 100 * share + "%";
    if (expert !== undefined) meter.dataset.e = expert;
    add(made, "span", "", percent(share));
    return made;
  }

  // A blank, a line's end and signs that would act rather than show, as signs.
  const visible = (text) => text === "" ? "◦" : text.replace(/ /g, "␣").replace(/\n/g, "↵").replace(
    /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (sign) => "U+" + sign.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0"));

  function tellToken(tip, token) {
    const i = +token.dataset.i, words = known.words, head = add(tip, "div", "head");
    const chip = add(head, "span", "tok");
    chip.dataset.e = token.dataset.e;
    chip.append(...[...token.childNodes].map((node) => node.cloneNode(true)));
    chip.classList.toggle("none", token.classList.contains("none"));
    add(head, "small", "", fill(words.token, {number: i + 1, id: token.dataset.id}));
    add(tip, "h4", "", fill(words.experts_at, {layer}));
    for (let choice = 0; choice < known.nChosen; choice++) {
      const expert = expertAt(i, layer, choice);
      const weight = known.weights[(i * known.nLayers + layer) * known.nChosen + choice] / 100;
      const made = row(tip, fill(words.expert, {number: expert}), weight, expert);
      made.lastChild.textContent = Math.round(100 * weight) + "\u202f%";
    }
    const strip = add(tip, "div", "strip");
    for (let n = 0; n < known.nLayers; n++) add(strip, "i", n === layer ? "here" : "").dataset.e = expertAt(i, n);
    add(tip, "small", "", words.strip);
    if (token.dataset.p !== undefined) {
      add(tip, "h4", "", fill(words.probability, {share: percent(+token.dataset.p)}));
      for (const [piece, share, isSaid] of JSON.parse(token.dataset.alternatives || "[]"))
        row(tip, visible(piece), share).classList.toggle("said", isSaid);
    }
  }

  function tell(element) {
    const known = data(), tip = view() && view().querySelector(".tip");
    if (!known || !tip) return;
    if (at && at !== element) at.classList.remove("at");
    at = element;
    at.classList.add("at");
    tip.replaceChildren();
    if (element.matches(".tok")) tellToken(tip, element);
    else add(tip, "div", "", element.dataset.tell);
    tip.hidden = false;
    const box = element.getClientRects()[0] || element.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const below = box.bottom + 8 + size.height < innerHeight || box.top < size.height + 8;
    tip.style.left = Math.max(8, Math.min(box.left, innerWidth - size.width - 8)) + "px";
    tip.style.top = (below ? box.bottom + 8 : box.top - size.height - 8) + "px";
  }

  function hide() {
    const tip = view() && view().querySelector(".tip");
    if (tip) tip.hidden = true;
    if (at) at.classList.remove("at");
    at = null;
  }

  function step(token, by) {
    const tokens = [...view().querySelectorAll(".text .tok")];
    const next = tokens[Math.min(Math.max(tokens.indexOf(token) + by, 0), tokens.length - 1)];
    token.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  const told = (event) => event.target.closest && event.target.closest(".text .tok, [data-tell]");
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "mouse") return;
    const element = told(event);
    if (element) tell(element);
    else hide();
  });
  document.documentElement.addEventListener("pointerleave", hide);
  document.addEventListener("focusin", (event) => { if (event.target.matches(".tok")) tell(event.target); });
  document.addEventListener("focusout", hide);
  document.addEventListener("click", (event) => {
    const go = event.target.closest("[data-go]"), key = event.target.closest(".key"), element = told(event);
    if (go) layer = +go.dataset.go;
    else if (key) lit = lit === +key.dataset.e ? null : +key.dataset.e;
    else if (element && element.dataset.l) layer = +element.dataset.l;
    if (go || key || (element && element.dataset.l)) colour();
    if (element) tell(element);
    else hide();
  });
  document.addEventListener("input", (event) => {
    if (!event.target.matches(".layers input")) return;
    layer = +event.target.value;
    colour();
  });
  document.addEventListener("keydown", (event) => {
    const token = event.target.closest(".text .tok");
    if (event.key === "Escape") hide();
    if (!token) return;
    const by = {ArrowRight: 1, ArrowLeft: -1, Home: -1e9, End: 1e9}[event.key];
    const up = {ArrowUp: 1, ArrowDown: -1}[event.key];
    if (by) step(token, by);
    if (up) { layer += up; colour(); }
    if (by || up) event.preventDefault();
  });
  addEventListener("scroll", () => { if (at) hide(); }, {capture: true, passive: true});

  function look() {
    if (view() === seen) return;
    seen = view();
    at = known = lit = null;
    if (!seen) return;
    // Gradio's rules for texts are stronger than any of a part of a text
    for (let text; (text = seen.closest(".prose, .md")); ) text.classList.remove("prose", "md");
    colour();
  }

  new MutationObserver(look).observe(document, {childList: true, subtree: true});
  look();
})();
