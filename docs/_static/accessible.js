// Fixes of the theme for axe-core: menu headings get a level, and elements that scroll get keyboard focus.
const scrolling = ".article-container :is(pre, .math-block, .table-wrapper)";

function reachable() {
  for (const part of document.querySelectorAll(scrolling)) {
    if (part.scrollWidth > part.clientWidth || part.scrollHeight > part.clientHeight) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  }
}

for (const caption of document.querySelectorAll(".caption[role=heading]")) caption.ariaLevel = "2";
window.addEventListener("load", reachable);
window.addEventListener("resize", reachable);
