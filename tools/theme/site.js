// What is too wide scrolls; a keyboard scrolls it where it takes the focus, which Safari lets nothing do by itself.
addEventListener("load", () => {
  for (const wide of document.querySelectorAll("pre > code, .md-typeset__scrollwrap, p:has(> img), .diagram")) {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
  }
});
