// The theme is the reader's choice, else the system's; widgets read it from the body, as in JupyterLab.
const system = matchMedia("(prefers-color-scheme: dark)");
let chosen = null;
try { chosen = localStorage.getItem("shalab-theme"); } catch { /* a browser may refuse: then it holds for this page */ }

function applyTheme() {
  const dark = chosen ? chosen === "dark" : system.matches;
  Object.assign(document.body.dataset, { jpThemeLight: String(!dark), jpThemeName: `JupyterLab ${dark ? "Dark" : "Light"}` });
  document.documentElement.style.colorScheme = dark ? "dark" : "light";
  return dark;
}

applyTheme();
system.addEventListener("change", applyTheme);

/** A key reaches what scrolls sideways. */
function reach() {
  for (const node of document.querySelectorAll("pre, .scroll, .long")) {
    node.toggleAttribute("tabindex", false);
    if (node.scrollWidth > node.clientWidth) node.tabIndex = 0;
  }
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
  for (const event of ["load", "resize"]) addEventListener(event, reach);
  document.fonts.ready.then(reach);
  document.addEventListener("toggle", reach, true); // what was folded has a width now
  document.addEventListener("load", reach, true); // a picture, too
}
