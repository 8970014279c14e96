// Calls `ask` every two seconds while the element can be seen, and at once when it comes into sight. Its end is the
// element's.
function octuorWhileSeen(element, ask) {
  const isSeen = () => element.isConnected && element.offsetParent !== null && !document.hidden;
  const timer = setInterval(() => {
    if (!element.isConnected) clearInterval(timer);
    else if (isSeen()) ask();
  }, 2000);
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && isSeen()) ask();
  }).observe(element);
}
