// While the memory page is seen, presses its hidden button every two seconds, and at once when it comes into sight: the
// server then draws it anew.
(() => {
  const views = document.getElementsByClassName("octuor-memory");
  const button = () => document.querySelector("#memory-refresh");
  let wasSeen = false, seen = null;

  function look() {
    const view = views[0];
    if (view && view !== seen) {
      seen = view;
      // Gradio's rules for texts are stronger than any of a part of a text
      for (let text; (text = view.closest(".prose, .md")); ) text.classList.remove("prose", "md");
    }
    const isSeen = Boolean(view) && view.offsetParent !== null && !document.hidden;
    if (isSeen && !wasSeen && button()) button().click();
    wasSeen = isSeen;
  }

  new MutationObserver(look).observe(document, {childList: true, subtree: true});
  document.addEventListener("click", () => requestAnimationFrame(look));
  document.addEventListener("visibilitychange", look);
  setInterval(() => {
    look();
    if (wasSeen && button()) button().click();
  }, 2000);
})();
