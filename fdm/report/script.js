"use strict";
// Theme: the system's choice until the reader makes one. Storage may be refused for a page opened from a file.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");
let chosen = null;
try { chosen = localStorage.getItem("fdm-theme"); } catch { /* then it lasts as long as the page */ }
function paint() {
  const theme = chosen || (system.matches ? "dark" : "light");
  root.dataset.theme = theme;
  toggle.textContent = theme === "dark" ? "Light" : "Dark";
  toggle.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
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
for (const table of document.querySelectorAll("table")) {
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

// Viewer: the figure itself moves into the dialog and back, so that nothing is on the page twice.
const viewer = document.getElementById("viewer"), stage = document.getElementById("stage"), zoom = document.getElementById("zoom");
let home = null;
for (const button of document.querySelectorAll(".enlarge")) button.addEventListener("click", () => {
  const figure = button.closest("figure");
  const picture = figure.querySelector(".plot, img");
  home = picture.parentElement;
  // The place left behind keeps its height, so that the page does not jump.
  home.style.minHeight = `${home.offsetHeight}px`;
  stage.replaceChildren(picture);
  document.getElementById("viewer-title").textContent = figure.querySelector("h3") ? figure.querySelector("h3").textContent : "";
  viewer.showModal();
});
viewer.addEventListener("close", () => {
  home.append(stage.firstElementChild);
  home.style.minHeight = "";
  stage.classList.remove("actual");
  zoom.setAttribute("aria-pressed", "false");
});
document.getElementById("close").addEventListener("click", () => viewer.close());
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
zoom.addEventListener("click", () => zoom.setAttribute("aria-pressed", String(stage.classList.toggle("actual"))));

// A link to a run opens its manifest.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.classList.contains("run")) for (const details of target.querySelectorAll("details")) details.open = true;
}
addEventListener("hashchange", reveal);
reveal();

// The navigation marks the section in view.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const observer = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) {
    for (const [id, link] of links) link.classList.toggle("here", id === entry.target.id);
    for (const [id, link] of links) if (id === entry.target.id) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-30% 0px -60% 0px" });
for (const id of links.keys()) observer.observe(document.getElementById(id));
