// Sections that hold all words that were asked for, those with more of them in the title first.
const sections = JSON.parse(document.getElementById("sections").textContent);
const field = document.querySelector("[type=search]"), found = document.getElementById("found");
const MOST = 30, AROUND = 70; // sections listed; characters shown on both sides of the first word

/** The whole words on both sides of a place. */
function around(text, place) {
  const from = Math.max(0, place - AROUND), to = place + AROUND, part = text.slice(from, to);
  const begun = from ? part.replace(/^\S{0,69}\s/, "… ") : part;
  return to < text.length ? begun.replace(/\s\S{0,50}$/, " …") : begun;
}

function search() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  found.replaceChildren();
  if (!words.length) return;
  const inside = (text) => words.filter((word) => text.toLowerCase().includes(word)).length;
  const hits = sections.filter(([, title, text]) => inside(`${title} ${text}`) === words.length)
    .sort((a, b) => inside(b[1]) - inside(a[1]));
  const list = document.createElement("ul");
  for (const [address, title, text] of hits.slice(0, MOST)) {
    const link = Object.assign(document.createElement("a"), { href: address, textContent: title });
    const place = Math.max(0, text.toLowerCase().indexOf(words[0]));
    const item = document.createElement("li");
    item.append(link, ` ${around(text, place)}`);
    list.append(item);
  }
  const more = hits.length > MOST ? `, the first ${MOST}` : "";
  found.append(`${hits.length} section${hits.length === 1 ? "" : "s"}${more}`, list);
}

field.value = new URLSearchParams(location.search).get("q") ?? "";
field.addEventListener("input", search);
field.form.addEventListener("submit", (event) => { event.preventDefault(); search(); });
search();
