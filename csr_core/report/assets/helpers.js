// What the viewer's other parts share: the data, what is looked at, and making elements. All text of models and data is
// put in as text, never as markup.
const holder = document.getElementById("tree-data");
const data = JSON.parse(holder.textContent);
const byId = (id) => document.getElementById(id);
const AT = Object.fromEntries(data.node.map((name, place) => [name, place]));
const NAMES = { reward: "reward", likelihood: "likelihood R_T", relevance: "relevance R_I" };
const STATUS = {
  root: ["", "the prompt"],
  grown: ["\u25cf", "grown: kept, and gone on from"],
  final: ["\u25a0", "kept: an answer ends here"],
  left: ["\u25cb", "not kept: the search went on from others"],
  dropped: ["\u00d7", "dropped"],
};
const state = { iteration: data.iterations[0], tree: null, by: "reward" }; // what is looked at

const make = (name, attributes = {}, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "text") element.textContent = value;
    else if (key === "style") element.style.cssText = value;
    else if (value !== null && value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
};
const svg = (name, attributes = {}) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};
const shown = (value) => {
  if (value === null || value === undefined) return "-";
  const size = Math.abs(value);
  return size >= 100 ? value.toFixed(0) : size >= 10 ? value.toFixed(1) : value.toFixed(2);
};
const setAddress = (address) => {
  try {
    history.replaceState(null, "", address);
  } catch {
    // In a frame of another page, such as MLflow's, there is no address to set.
  }
};
const exact = (value) => (value === null || value === undefined ? "-" : String(Number(value.toPrecision(4))));
const get = (node, name) => node[AT[name]];

// ---- colours: cividis, whose lightness rises with the value, so that it can be read without seeing colours
const colour = (value) => {
  if (value === null) return { ground: "#ffffff", ink: "#1a1c1f" };
  const [low, high] = state.iteration.scales[state.by];
  const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
  const rgb = data.colours[Math.round(share * (data.colours.length - 1))];
  const linear = rgb.map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return { ground: `rgb(${rgb.map((part) => Math.round(255 * part)).join(",")})`, ink: luminance > 0.179 ? "#000000" : "#ffffff" };
};
const drawScale = () => {
  const ends = state.iteration.scales[state.by];
  const colours = data.colours.map((rgb) => `rgb(${rgb.map((part) => Math.round(255 * part)).join(",")})`);
  byId("scale-low").textContent = `${shown(ends[0])}`;
  byId("scale-high").textContent = `${shown(ends[1])} (better)`;
  byId("scale-bar").style.background = `linear-gradient(90deg, ${colours.join(",")})`;
};
