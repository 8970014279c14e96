// While the memory page is seen, presses its hidden button every two seconds, and at once when it comes into sight: the
// server then draws it anew.
(() => {
  const views = document.getElementsByClassName("octuor-memory");
  let watched = null, isSeen = false;

  function refresh() {
    const button = document.querySelector("#memory-refresh");
    if (isSeen && !document.hidden && button) button.click();
  }

  // tells without the layout that asking an element where it stands would cost at each change of the chat
  const sight = new IntersectionObserver((entries) => {
    const wasSeen = isSeen;
    isSeen = entries[entries.length - 1].isIntersecting;
    if (!wasSeen) refresh();
  });

  new MutationObserver(() => {
    const view = views[0] || null;
    if (view === watched) return;
    if (watched) sight.unobserve(watched);
    watched = view;
    if (!view) return void (isSeen = false);
    // Gradio's rules for texts are stronger than any of a part of a text
    for (let text; (text = view.closest(".prose, .md")); ) text.classList.remove("prose", "md");
    sight.observe(view);
  }).observe(document, {childList: true, subtree: true});
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, 2000);
})();
