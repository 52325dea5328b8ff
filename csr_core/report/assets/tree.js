// One tree: as an outline to read and to walk with the keys of a tree view (WAI-ARIA), and as a map to see at a glance.
const draw = () => {
  const { tree } = state;
  byId("tree-prompt").textContent = tree.prompt;
  byId("tree-pictures").replaceChildren(...(tree.pictures.length
    ? tree.pictures.map((place, number) => make("img", { src: data.pictures[place], alt: `picture ${tree.pictures.length > 1 ? `${number + 1} ` : ""}of prompt ${tree.id}` }))
    : [make("span", { class: "small", text: "picture not found" })]));
  const answer = (side) => make("div", { class: `side ${side}` }, make("strong", { class: `${side}-word`, text: side }),
    ` ${shown(tree[`${side}_reward`])}: `, tree[side].map((place) => get(tree.nodes[place], "text")).join("").trim(), sum(tree, side));
  byId("tree-answers").replaceChildren(...(tree.chosen
    ? [answer("chosen"), answer("rejected"), make("p", { class: "small", text: `margin ${shown(tree.margin)}` })]
    : [make("p", { class: "small", text: `no pair: ${tree.why_none || "reason not known"}` })]));
  drawScale();
  drawTree();
};
// How the score is made of the sentences' rewards: their sum, less the same bar for each.
const sum = (tree, side) => {
  if (tree.bar === undefined) return null;
  const earned = tree[side].map((place) => get(tree.nodes[place], "reward")).filter((reward) => reward !== null);
  const total = earned.reduce((one, other) => one + other, 0);
  const digits = Math.abs(total) >= 10 ? 1 : 3;  // one more of the bar, which is taken off several times
  const less = tree.bar ? ` \u2212 ${earned.length} \u00d7 ${tree.bar.toFixed(digits + 1)}` : "";
  return make("span", { class: "small sum", text: `rewards ${total.toFixed(digits)}${less} = ${(total - earned.length * tree.bar).toFixed(digits)}` });
};
const visible = (place) => {
  const { tree } = state;
  if (byId("tree-paths").checked && tree.chosen) return tree.chosen.includes(place) || tree.rejected.includes(place);
  return byId("tree-dropped").checked || get(tree.nodes[place], "status") !== "dropped";
};
const children = () => {
  const below = new Map();
  state.tree.nodes.forEach((node, place) => {
    const parent = get(node, "parent");
    if (parent !== null && visible(place)) below.set(parent, [...(below.get(parent) || []), place]);
  });
  return below;
};
const sides = (place) => ["chosen", "rejected"].filter((side) => state.tree[side] && state.tree[side].includes(place));
const drawTree = () => {
  const below = children(), root = state.tree.nodes.findIndex((node) => get(node, "parent") === null);
  const top = below.get(root) || [];
  const container = byId("tree");
  container.replaceChildren(...top.map((place, index) => item(place, below, 1, index + 1, top.length)));
  const first = rows()[0];
  if (first) first.tabIndex = 0;
  drawMap(below, root);
};
// The sentence with what is not in the picture underlined, and what was searched for marked.
const sentence = (node) => {
  const text = get(node, "text"), search = byId("tree-search").value.trim().toLowerCase();
  const spans = (get(node, "wrong") || []).map(([start, end]) => ({ start, end, kind: "wrong" }));
  const found = search ? text.toLowerCase().indexOf(search) : -1;
  if (found >= 0) spans.push({ start: found, end: found + search.length, kind: "found" });
  spans.sort((a, b) => a.start - b.start);
  const said = make("span", { class: "said" });
  let at = 0;
  for (const span of spans) {
    if (span.start < at) continue;
    said.append(text.slice(at, span.start), make(span.kind === "found" ? "mark" : "span", { class: span.kind, text: text.slice(span.start, span.end), title: span.kind === "wrong" ? "not in the picture" : null }));
    at = span.end;
  }
  said.append(text.slice(at));
  return said;
};
const item = (place, below, level, number, of) => {
  const node = state.tree.nodes[place], status = get(node, "status"), value = get(node, state.by);
  const path = sides(place), kids = below.get(place) || [], paint = colour(value);
  const row = make("div", { class: ["row", status, ...path].join(" ") },
    make("span", { class: "fold", "aria-hidden": "true", text: kids.length ? "\u25be" : "" }),
    make("span", { class: "sign", "aria-hidden": "true", text: STATUS[status][0] }),
    make("span", { class: "chip", text: shown(value), style: `background:${paint.ground};color:${paint.ink}` }),
    sentence(node),
    get(node, "repeat") ? make("span", { class: "tag", text: "repeat" }) : null,
    path.length ? make("span", { class: `tag ${path[0]}-word`, text: path.join(", ") }) : null);
  const wrong = (get(node, "wrong") || []).map(([start, end]) => get(node, "text").slice(start, end));
  const spoken = [get(node, "text").trim(), `${NAMES[state.by]} ${shown(value)}`, STATUS[status][1], get(node, "repeat") ? "said before in this answer" : "", ...path.map((side) => `on the ${side} path`),
    wrong.length ? `not in the picture: ${wrong.join(", ")}` : ""];
  const element = make("li", { role: "treeitem", tabindex: "-1", "aria-level": level, "aria-posinset": number, "aria-setsize": of,
    "aria-label": spoken.filter(Boolean).join("; "), "aria-expanded": kids.length ? "true" : null, "aria-selected": "false" }, row);
  element.place = place;
  if (kids.length) element.append(make("ul", { role: "group" }, ...kids.map((kid, index) => item(kid, below, level + 1, index + 1, kids.length))));
  return element;
};
const path = (place) => {
  const places = [];
  for (let at = place; at !== null && get(state.tree.nodes[at], "parent") !== null; at = get(state.tree.nodes[at], "parent")) places.unshift(at);
  return places;
};
const numbers = (place) => {
  const node = state.tree.nodes[place], tokens = get(node, "tokens"), log = get(node, "log_likelihood");
  const entries = [
    ["reward", exact(get(node, "reward")) + (get(node, "repeat") ? ": said before in this answer, so it earns nothing" : "")],
    ["likelihood R_T", exact(get(node, "likelihood"))],
    ["relevance R_I", exact(get(node, "relevance"))],
    ["log-likelihood", `${exact(log)} nats over ${tokens} tokens${tokens ? ` (${shown(log / tokens)} a token)` : ""}`],
    ["what became of it", STATUS[get(node, "status")][1] + (get(node, "dropped") ? `: ${get(node, "dropped")}` : "")],
    ["answer to here", path(place).map((at) => get(state.tree.nodes[at], "text")).join("").trim()],
  ];
  return make("dl", { class: "numbers" }, ...entries.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
};

// ---- walking: the keys of a tree view (WAI-ARIA)
const rows = () => [...byId("tree").querySelectorAll("[role=treeitem]")].filter((element) => !element.parentElement.closest("[role=treeitem][aria-expanded=false]"));
const focus = (element) => {
  if (!element) return;
  for (const other of byId("tree").querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
  element.tabIndex = 0;
  element.focus();
  for (const node of byId("tree-map").querySelectorAll(".node")) node.classList.toggle("here", Number(node.dataset.place) === element.place);
};
const fold = (element, open) => {
  element.setAttribute("aria-expanded", String(open));
  element.querySelector(":scope > [role=group]").hidden = !open;
  element.querySelector(":scope > .row > .fold").textContent = open ? "\u25be" : "\u25b8";
};
const openTo = (place) => {
  const element = [...byId("tree").querySelectorAll("[role=treeitem]")].find((one) => one.place === place);
  for (let at = element?.parentElement.closest("[role=treeitem]"); at; at = at.parentElement.closest("[role=treeitem]")) fold(at, true);
  focus(element);
};
const toggleNumbers = (element) => {
  const there = element.querySelector(":scope > .numbers");
  element.setAttribute("aria-selected", String(!there));
  if (there) there.remove();
  else element.querySelector(":scope > .row").after(numbers(element.place));
};
byId("tree").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const all = rows(), here = document.activeElement, at = all.indexOf(here);
  if (at < 0) return;
  const open = here.getAttribute("aria-expanded"), group = here.querySelector(":scope > [role=group]");
  const acts = {
    ArrowDown: () => focus(all[at + 1]),
    ArrowUp: () => focus(all[at - 1]),
    Home: () => focus(all[0]),
    End: () => focus(all[all.length - 1]),
    ArrowRight: () => (open === "false" ? fold(here, true) : group && focus(group.firstElementChild)),
    ArrowLeft: () => (open === "true" ? fold(here, false) : focus(here.parentElement.closest("[role=treeitem]"))),
    Enter: () => toggleNumbers(here),
    " ": () => toggleNumbers(here),
    c: () => state.tree.chosen && openTo(state.tree.chosen[state.tree.chosen.length - 1]),
    r: () => state.tree.rejected && openTo(state.tree.rejected[state.tree.rejected.length - 1]),
  };
  if (acts[event.key]) {
    event.preventDefault();
    acts[event.key]();
  }
});
byId("tree").addEventListener("click", (event) => {
  const element = event.target.closest("[role=treeitem]");
  if (!element || event.target.closest(".numbers")) return;
  focus(element);
  if (event.target.closest(".fold") && element.hasAttribute("aria-expanded")) fold(element, element.getAttribute("aria-expanded") === "false");
  else toggleNumbers(element);
});

// ---- the tree at a glance: depth to the right, a row for each leaf
const drawMap = (below, root) => {
  const leaves = [...Array(state.tree.nodes.length).keys()].filter((at) => visible(at) && !below.has(at)).length;
  const STEP = 64, HIGH = Math.max(8, Math.min(15, 390 / leaves)), spots = new Map(); // pixels; more leaves are scrolled
  let leaf = 0, deepest = 0;
  const place = (at, depth) => {
    deepest = Math.max(deepest, depth);
    const kids = (below.get(at) || []).map((kid) => place(kid, depth + 1));
    const y = kids.length ? (kids[0] + kids[kids.length - 1]) / 2 : HIGH * leaf++;
    spots.set(at, [16 + STEP * depth, 14 + y]);
    return y;
  };
  place(root, 0);
  const width = 32 + STEP * deepest, height = 28 + HIGH * Math.max(0, leaf - 1);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` });
  const lines = [], marks = [];
  for (const [at, [x, y]] of spots) {
    const node = state.tree.nodes[at], status = get(node, "status"), size = Math.min(status === "left" ? 4 : 6, HIGH / 2);
    for (const kid of below.get(at) || []) {
      const [to, down] = spots.get(kid), route = `M${x} ${y}C${x + STEP / 2} ${y} ${to - STEP / 2} ${down} ${to} ${down}`;
      const kinds = sides(kid);
      (kinds.length ? kinds : [""]).forEach((side, index) => lines.push([kinds.length, svg("path", { d: route, class: `edge ${side}`, transform: `translate(0 ${2 * index})` })]));
    }
    const fill = at === root ? "#33373d" : colour(get(node, state.by)).ground;
    let mark;
    if (status === "dropped") mark = svg("path", { d: `M${x - 5} ${y - 5}L${x + 5} ${y + 5}M${x - 5} ${y + 5}L${x + 5} ${y - 5}`, "stroke-width": 3 });
    else if (status === "final") mark = svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, fill });
    else mark = svg("circle", { cx: x, cy: y, r: size, fill });
    mark.setAttribute("class", `node ${status}`);
    mark.dataset.place = at;
    const hint = svg("title");
    hint.textContent = at === root ? state.tree.prompt : `${get(node, "text").trim()} (${NAMES[state.by]} ${shown(get(node, state.by))})`;
    mark.append(hint);
    marks.push(mark);
  }
  lines.sort((a, b) => a[0] - b[0]);
  picture.append(...lines.map((line) => line[1]), ...marks);
  picture.addEventListener("click", (event) => {
    const at = event.target.closest(".node");
    if (at) openTo(Number(at.dataset.place));
  });
  byId("tree-map").replaceChildren(picture);
};
