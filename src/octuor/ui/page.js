// What Gradio has no component for: the language, light and dark, the keyboard, drawers, and the address of the
// conversation that is shown. Runs before Gradio's own scripts, and never evaluates anything.
"use strict";
(() => {
  const LANGUAGES = ["en", "fr", "de", "it", "es"];
  const find = (id) => document.getElementById(id);
  const button = (id) => {
    const found = find(id);
    return found && (found.tagName === "BUTTON" ? found : found.querySelector("button") || found);
  };

  // ---- the language: the browser's, until one is chosen -------------------------------------------
  const cookie = document.cookie.match(/(?:^|; )octuor_language=(\w\w)/);
  const chosen = cookie && LANGUAGES.includes(cookie[1]) ? cookie[1] : null;
  const language = chosen || LANGUAGES.find((tag) => navigator.language.toLowerCase().startsWith(tag)) || "en";
  // Gradio asks the browser for its language once, when it begins. It has no Italian of its own and would not take ours:
  // ours stands in the place of its Catalan (page.py)
  const slot = language === "it" ? "ca" : language;
  Object.defineProperty(navigator, "language", { get: () => slot });
  Object.defineProperty(navigator, "languages", { get: () => [slot] });

  function choose(tag) {
    document.cookie = `octuor_language=${tag}; path=/; max-age=31536000; samesite=lax`;
    const draft = document.querySelector("#message textarea");
    if (draft && draft.value) sessionStorage.setItem("octuor-draft", draft.value);
    location.reload();
  }

  // ---- light and dark: the system's, until one is chosen ------------------------------------------
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (localStorage.getItem("octuor-theme") || (system.matches ? "dark" : "light")) === "dark";
  function paint() {
    document.documentElement.classList.toggle("octuor-dark", isDark());
    if (document.body && document.body.classList.contains("dark") !== isDark()) {
      document.body.classList.toggle("dark", isDark());
    }
  }
  paint();
  system.addEventListener("change", paint);

  function switchTheme() {
    const wanted = isDark() ? "light" : "dark";
    if ((wanted === "dark") === system.matches) localStorage.removeItem("octuor-theme");
    else localStorage.setItem("octuor-theme", wanted);
    paint();
  }

  // ---- drawers: conversations, settings, what else there is to do ---------------------------------
  const isNarrow = () => innerWidth < 900;
  function setDrawer(name, isOpen) {
    document.documentElement.classList.toggle(`show-${name}`, isOpen);
    const toggle = button(`toggle-${name}`);
    if (toggle) toggle.setAttribute("aria-expanded", String(isOpen));
    if (name !== "more" && !isNarrow()) localStorage.setItem(`octuor-${name}`, isOpen ? "open" : "closed");
  }
  const isOpen = (name) => document.documentElement.classList.contains(`show-${name}`);
  function closeOverlays() {
    const names = isNarrow() ? ["more", "settings", "conversations"] : ["more"];
    const open = names.filter(isOpen);
    open.forEach((name) => setDrawer(name, false));
    return open.length > 0;
  }
  if (!isNarrow()) {
    setDrawer("conversations", localStorage.getItem("octuor-conversations") !== "closed");
    setDrawer("settings", localStorage.getItem("octuor-settings") === "open");
  }

  // ---- conversations ------------------------------------------------------------------------------
  function tell(id, text) {
    const box = document.querySelector(`#${id} textarea, #${id} input`);
    if (!box) return;
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true }));
  }
  let picks = 0;
  function pick(id) {
    tell("picked", `${id} ${++picks}`); // another text each time, or it would be no event
    if (isNarrow()) setDrawer("conversations", false);
    focusMessage();
  }
  function focusMessage() {
    const box = document.querySelector("#message textarea");
    if (box && !isNarrow()) box.focus();
  }
  // the address names the conversation, so that it is there again when the page is loaded again
  function address() {
    const list = document.querySelector("#conversations nav");
    if (!list) return;
    const url = new URL(location.href), current = list.id.replace(/^shown-/, "");
    if (current) url.searchParams.set("c", current);
    else url.searchParams.delete("c");
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  }

  // ---- events -------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest(selector);
    const conversation = at('#conversations button[id^="c-"]');
    if (conversation) return pick(conversation.id.slice(2));
    if (at("#theme")) return switchTheme();
    if (at("#forget-key")) return fetch("ui/forget", { method: "POST" }).finally(() => location.reload());
    for (const name of ["conversations", "settings", "more"]) {
      if (at(`#toggle-${name}`)) return setDrawer(name, !isOpen(name));
    }
    if (at("#new-conversation") || at("#delete-sure")) {
      if (isNarrow()) setDrawer("conversations", false);
      setDrawer("more", false);
      return focusMessage();
    }
    if (isNarrow() && !at("#sidebar, #settings, #more")) closeOverlays();
    if (isOpen("more") && !at("#more")) setDrawer("more", false);
    if (at("#export-markdown") || at("#export-json") || at("#delete-keep")) setDrawer("more", false);
  });
  document.addEventListener("change", (event) => {
    if (event.target.id === "language") choose(event.target.value);
  });
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const stop = button("stop");
    if (event.key === "Escape") {
      if (closeOverlays()) event.preventDefault();
      else if (stop && stop.offsetParent) stop.click();
    } else if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.key.toLowerCase() === "o") {
      event.preventDefault();
      button("new-conversation").click();
    } else if (event.key === "Enter" && event.target.closest("#rename")) {
      event.target.blur();
    }
  });

  // ---- copies: without the characters that make text of HTML (markdown.py) --------------------------
  const asWritten = (text) => text.replaceAll("<\u2060", "<");
  if (navigator.clipboard) {
    const write = navigator.clipboard.writeText.bind(navigator.clipboard);
    navigator.clipboard.writeText = (text) => write(asWritten(text));
  }
  document.addEventListener("copy", (event) => {
    const text = String(getSelection());
    if (!text.includes("<\u2060")) return;
    event.clipboardData.setData("text/plain", asWritten(text));
    event.preventDefault();
  });

  // ---- what Gradio draws gets the names that screen readers need -----------------------------------
  function complete() {
    const select = find("language");
    if (select && select.dataset.is !== "set") {
      select.value = language;
      select.setAttribute("aria-label", find("language-label").textContent.trim());
      select.dataset.is = "set";
    }
    for (const icon of document.querySelectorAll("button.icon:not([title])")) {
      if (icon.textContent.trim()) icon.title = icon.textContent.trim();
    }
    for (const name of ["conversations", "settings", "more"]) {
      const toggle = button(`toggle-${name}`);
      if (toggle && !toggle.hasAttribute("aria-expanded")) {
        toggle.setAttribute("aria-expanded", String(isOpen(name)));
        toggle.setAttribute("aria-controls", name === "conversations" ? "sidebar" : name);
      }
    }
    const list = document.querySelector("#conversations nav[title]");
    if (list) {
      list.setAttribute("aria-label", list.title);
      list.removeAttribute("title");
      for (const entry of list.querySelectorAll("button.current")) entry.setAttribute("aria-current", "true");
    }
    const draft = sessionStorage.getItem("octuor-draft");
    if (draft && document.querySelector("#message textarea")) {
      sessionStorage.removeItem("octuor-draft");
      tell("message", draft);
    }
    const status = find("status-line");
    if (status && !status.hasAttribute("role")) status.setAttribute("role", "status");
  }

  let isScheduled = false;
  function look() {
    isScheduled = false;
    paint();
    if (document.documentElement.lang !== language) document.documentElement.lang = language;
    complete();
    address();
  }
  document.addEventListener("DOMContentLoaded", () => {
    look();
    new MutationObserver(() => {
      if (!isScheduled) {
        isScheduled = true;
        setTimeout(look, 50);
      }
    }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["class"] });
  });
})();
