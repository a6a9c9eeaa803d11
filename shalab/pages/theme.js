// The theme is the reader's choice, else the system's; widgets read it from the body, as in JupyterLab.
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null, printing = false; // paper is white
try { chosen = localStorage.getItem("shalab-theme"); } catch { /* a browser may refuse: then it holds for this page */ }

function applyTheme() {
  const dark = !printing && (chosen ? chosen === "dark" : system.matches);
  Object.assign(document.body.dataset, { jpThemeLight: String(!dark), jpThemeName: `JupyterLab ${dark ? "Dark" : "Light"}` });
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  return dark;
}

document.body.classList.add("alive");
applyTheme();
system.addEventListener("change", applyTheme);
for (const event of ["beforeprint", "afterprint"]) {
  addEventListener(event, () => { printing = event === "beforeprint"; applyTheme(); });
}

const SIDEWAYS = "pre, .scroll, .long, .shalab-scroll, [data-model] > div"; // where something may be too wide
const HIGH = 200; // pixels of a row that nobody wants to read

/** A table that is too wide, or would have very high rows, gets the width that it needs; a key reaches what scrolls. */
function reach() {
  for (const table of document.querySelectorAll(".scroll > table")) {
    table.classList.remove("roomy");
    const isWide = table.offsetWidth > table.parentElement.clientWidth;
    table.classList.toggle("roomy", isWide || [...table.rows].some((row) => row.offsetHeight > HIGH));
  }
  for (const node of document.querySelectorAll("pre, .scroll, .long")) {
    node.toggleAttribute("tabindex", false);
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }
  document.querySelectorAll(SIDEWAYS).forEach(fade);
}

/** Tells the style on which sides a box goes on. */
function fade(box) {
  box.classList.toggle("on-left", box.scrollLeft > 1);
  box.classList.toggle("on-right", box.scrollWidth - box.clientWidth - box.scrollLeft > 1);
}

/** Chromium's box of a root is wider than the root: what follows is moved to its bar. */
function closeRoots() {
  const gap = (root) => root.getBoundingClientRect().right - root.lastElementChild.getBoundingClientRect().right;
  const gaps = [...document.querySelectorAll("msqrt")].map((root) => [root, gap(root)]);
  for (const [root, wide] of gaps) if (wide > 2) root.style.marginRight = `${1 - wide}px`;
}

/** When the text is there: the button, and what scrolls. */
function ready() {
  const button = document.getElementById("theme");
  const name = (dark) => { button.textContent = dark ? "light theme" : "dark theme"; };
  name(applyTheme());
  system.addEventListener("change", () => name(applyTheme()));
  button.addEventListener("click", () => {
    chosen = applyTheme() ? "light" : "dark";
    try { localStorage.setItem("shalab-theme", chosen); } catch { /* as above */ }
    name(applyTheme());
  });
  const afterFrame = () => requestAnimationFrame(() => setTimeout(reach)); // when widgets have drawn at the new size
  for (const event of ["load", "resize"]) addEventListener(event, afterFrame);
  document.fonts.ready.then(() => { closeRoots(); reach(); });
  document.addEventListener("toggle", () => { closeRoots(); reach(); }, true); // what was folded has a width now
  document.addEventListener("load", reach, true); // a picture, too
  document.addEventListener("scroll", ({ target }) => { if (target.matches?.(SIDEWAYS)) fade(target); }, true);
}
