"use strict";
const byId = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];

// Theme: the system's choice until the reader makes one. Storage may be refused for a page opened from a file.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const toggle = byId("theme");
let chosen = null;
try { chosen = localStorage.getItem("fdm-theme"); } catch { /* then it lasts as long as the page */ }
function paint() {
  const theme = chosen || (system.matches ? "dark" : "light");
  root.dataset.theme = theme;
  toggle.textContent = theme === "dark" ? "Light" : "Dark";
  toggle.setAttribute("aria-label", `${toggle.textContent} colours`);
}
toggle.hidden = false;
toggle.addEventListener("click", () => {
  chosen = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("fdm-theme", chosen); } catch { /* see above */ }
  paint();
});
system.addEventListener("change", paint);
paint();

// Sorting: numbers by value, text by language; rows without a value stay last; a third click restores the order of the suite.
for (const table of all("table")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    for (const other of heads) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    const sign = next === "descending" ? -1 : 1;
    const value = (row) => row.cells[column].dataset.value;
    const order = next === "none" ? original : [...original].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const difference = Number(x) - Number(y);
      return sign * (Number.isNaN(difference) ? x.localeCompare(y, undefined, { numeric: true }) : difference);
    });
    body.append(...order);
  }));
}

// Filters: a method that is switched off leaves every table and figure; the words above a table
// filter its rows by name and by cells that hold text.
const methods = byId("methods"), boxes = all("#methods input");
const owned = all("[data-of]").map((element) => [element, element.dataset.of.split(" ")]);
function filter() {
  const off = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
  for (const [element, names] of owned) element.classList.toggle("off", names.every((name) => off.has(name)));
  byId("shown").textContent = off.size ? `${boxes.length - off.size} of ${boxes.length}` : "";
  for (const find of all(".find")) {
    const words = find.firstElementChild.value.toLowerCase().split(/\s+/);
    const rows = [...find.closest("figure").querySelector("tbody").rows];
    for (const row of rows) {
      const text = [...row.querySelectorAll("th, .text")].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.classList.toggle("unfound", !words.every((word) => text.includes(word)));
    }
    const seen = rows.filter((row) => !row.matches(".off, .unfound")).length;
    find.lastElementChild.textContent = seen < rows.length ? `${seen} of ${rows.length} rows` : "";
  }
}
for (const find of all(".find")) {
  find.hidden = false;
  find.addEventListener("input", filter);
}
methods.hidden = false;
methods.addEventListener("change", filter);
for (const [id, checked] of [["all", true], ["none", false]]) byId(id).addEventListener("click", () => {
  for (const box of boxes) box.checked = checked;
  filter();
});
addEventListener("pointerdown", (event) => { if (!methods.contains(event.target)) methods.open = false; });
methods.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  methods.open = false;
  methods.firstElementChild.focus();
});
filter();

// Viewer: the figure itself moves into the dialog and back, so that nothing is on the page twice.
const viewer = byId("viewer"), stage = byId("stage"), zoom = byId("zoom");
let home = null, current = null;
function putBack() {
  if (!home) return;
  home.append(stage.firstElementChild);
  home.style.minHeight = "";
  home = null;
  stage.classList.remove("actual");
  zoom.setAttribute("aria-pressed", "false");
}
function show(button) {
  putBack();
  const figure = button.closest("figure"), picture = figure.querySelector(".plot, img"), title = figure.querySelector("h3");
  current = button;
  home = picture.parentElement;
  // The place left behind keeps its height, so that the page does not jump.
  home.style.minHeight = `${home.offsetHeight}px`;
  stage.replaceChildren(picture);
  byId("viewer-title").textContent = title ? title.textContent : "";
  if (!viewer.open) viewer.showModal();
}
function step(by) {
  const shown = all(".enlarge").filter((button) => !button.closest(".off"));
  show(shown[(shown.indexOf(current) + by + shown.length) % shown.length]);
}
for (const button of all(".enlarge")) button.addEventListener("click", () => show(button));
viewer.addEventListener("close", () => { putBack(); current.focus(); });
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
viewer.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
byId("close").addEventListener("click", () => viewer.close());
byId("before").addEventListener("click", () => step(-1));
byId("after").addEventListener("click", () => step(1));
zoom.addEventListener("click", () => zoom.setAttribute("aria-pressed", String(stage.classList.toggle("actual"))));

// A link to a run opens its manifest, also where the method filter has hidden it.
function reveal() {
  const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
  if (!target || !target.id.startsWith("run-")) return;
  const own = target.closest(".run");
  for (const box of boxes) if (own.dataset.of === box.value) box.checked = true;
  filter();
  for (const details of target === own ? own.querySelectorAll("details") : [target]) details.open = true;
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
reveal();

// The navigation marks the section in view.
const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) {
    link.classList.toggle("here", id === entry.target.id);
    if (id === entry.target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-30% 0px -60% 0px" });
for (const id of links.keys()) observer.observe(byId(id));
