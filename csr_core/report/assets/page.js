// The list of prompts with its filters, and what begins when the page is there.
const margins = () => state.iteration.trees.map((tree) => tree.margin).filter((margin) => margin !== undefined && margin !== null);
const least = () => {
  const found = margins();
  const [low, high] = found.length ? [Math.min(...found), Math.max(...found)] : [0, 0];
  return low + ((high - low) * Number(byId("tree-margin").value)) / 100;
};
const wanted = () => {
  const text = byId("tree-search").value.trim().toLowerCase();
  const kind = byId("tree-kind").value, order = byId("tree-order").value;
  const floor = Number(byId("tree-margin").value) > 0 ? least() : null;
  const found = state.iteration.trees.filter((tree) => {
    const pair = tree.margin !== undefined;
    if ((kind === "pairs" && !pair) || (kind === "without" && pair)) return false;
    if (floor !== null && !(pair && tree.margin !== null && tree.margin >= floor)) return false;
    return !text || `${tree.id} ${tree.prompt}`.toLowerCase().includes(text) || tree.nodes.some((node) => get(node, "text").toLowerCase().includes(text));
  });
  const margin = (tree, otherwise) => tree.margin ?? otherwise;
  if (order === "down") found.sort((a, b) => margin(b, -Infinity) - margin(a, -Infinity) || 0);
  if (order === "up") found.sort((a, b) => margin(a, Infinity) - margin(b, Infinity) || 0);
  if (order === "id") found.sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
  return found;
};
const label = (tree) => (tree.margin === undefined ? tree.why_none || "no pair" : tree.margin === null ? "a pair" : `margin ${shown(tree.margin)}`);
// Where all prompts ask the same, that tells nothing apart.
const onePrompt = () => new Set(state.iteration.trees.map((tree) => tree.prompt)).size === 1;
const option = (tree) => {
  const picture = tree.pictures.length ? make("img", { src: data.pictures[tree.pictures[0]], alt: "" }) : make("span", { class: "none" });
  const item = make("li", { role: "option", id: `prompt-${state.iteration.iteration}-${state.iteration.trees.indexOf(tree)}`, "aria-selected": "false" },
    picture, make("span", {}, make("span", { class: "what", text: tree.id }), onePrompt() ? null : make("span", { class: "small", text: tree.prompt }),
      make("span", { class: "small", text: label(tree), title: label(tree) })));
  item.tree = tree;
  return item;
};
const list = byId("tree-list");
const fill = (keep) => {
  const found = wanted(), total = state.iteration.trees.length;
  list.replaceChildren(...found.map(option));
  const sample = total < state.iteration.prompts ? `, a sample of ${state.iteration.prompts.toLocaleString("en")} prompts` : "";
  const none = found.length ? "" : ": nothing fits; another iteration may have some";
  byId("tree-count").textContent = `${found.length} of ${total} trees${sample}${none}`;
  byId("tree-margin-shown").textContent = Number(byId("tree-margin").value) > 0 ? shown(least()) : "any";
  list.tabIndex = found.length ? 0 : -1;
  const chosen = keep && found.includes(state.tree) ? state.tree : found[0] ?? null;
  if (chosen) choose(chosen);
  byId("tree-viewer").hidden = !chosen;
};
const choose = (tree) => {
  for (const item of list.children) {
    const here = item.tree === tree;
    item.setAttribute("aria-selected", String(here));
    if (here) {
      list.setAttribute("aria-activedescendant", item.id);
      if (list.contains(document.activeElement) || document.activeElement === list) item.scrollIntoView({ block: "nearest" });
    }
  }
  state.tree = tree;
  setAddress(`#tree=${state.iteration.iteration}/${encodeURIComponent(tree.id)}`);
  draw();
};
list.addEventListener("click", (event) => {
  const item = event.target.closest("[role=option]");
  if (item) choose(item.tree);
});
list.addEventListener("keydown", (event) => {
  const items = [...list.children];
  const here = items.findIndex((item) => item.tree === state.tree);
  const to = { ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: items.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    if (items[to]) choose(items[to].tree);
  } else if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    focus(rows()[0]);
  }
});

const select = byId("tree-iteration");
select.append(...data.iterations.map((one, place) => make("option", { value: place, text: String(one.iteration) })));
select.addEventListener("change", () => {
  state.iteration = data.iterations[Number(select.value)];
  fill(false);
});
for (const id of ["tree-kind", "tree-order"]) byId(id).addEventListener("change", () => fill(true));
for (const id of ["tree-search", "tree-margin"]) byId(id).addEventListener("input", () => fill(true));
for (const id of ["tree-paths", "tree-dropped"]) byId(id).addEventListener("change", drawTree);
for (const radio of document.querySelectorAll("input[name=by]")) {
  radio.addEventListener("change", () => {
    state.by = radio.value;
    drawScale();
    drawTree();
  });
}
byId("tree-controls").addEventListener("submit", (event) => event.preventDefault());
byId("tree-controls").hidden = byId("tree-viewer").hidden = false;

const { hash } = location;
// A link such as report.html#tree=2/17 opens that tree.
const asked = /^#tree=(\d+)\/(.*)$/.exec(hash);
if (asked) {
  const place = data.iterations.findIndex((one) => one.iteration === Number(asked[1]));
  if (place >= 0) {
    select.value = String(place);
    state.iteration = data.iterations[place];
    state.tree = state.iteration.trees.find((tree) => tree.id === decodeURIComponent(asked[2])) ?? null;
  }
}
fill(true);
if (asked) byId("trees").scrollIntoView();
else setAddress(hash || location.pathname);
