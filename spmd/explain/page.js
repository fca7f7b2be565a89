// What is shown, and what is selected; details, keys.
const state = {function: 0, open: new Set(), chosen: new Map()};
const kept = new Map();  // function -> what the reader opened there
let shown = {root: {left: 0, top: 0, width: 1, height: 1}, leaves: []};
const $ = id => document.getElementById(id);

// Draw a function as the reader left it, at first as an overview.
function show(index) {
  state.function = index;
  const f = plan.functions[index];
  if (!kept.has(index)) kept.set(index, {open: overview(f), chosen: new Map()});
  Object.assign(state, kept.get(index));
  [...$("tabs").children].forEach((tab, i) => tab.classList.toggle("on", i === index));
  redraw();
  fit();
}

function redraw() {
  const f = plan.functions[state.function];
  shown = drawGraph(f, state);
  $("canvas").replaceChildren(shown.svg);
  applyView();
  drawTree(f);
  drawLegend();
}

const nodeOf = key => {
  const find = node => node.key === key && node.group ? node : (node.children || []).reduce((found, child) => found || find(child), null);
  return find(shown.root);
};
const ownerOf = op => shown.owner[op];

// Open or close a group, which stays where it is.
function toggle(key) {
  const before = nodeOf(key), at = before && [view.x + view.scale * before.left, view.y + view.scale * before.top];
  state.open.has(key) ? state.open.delete(key) : state.open.add(key);
  redraw();
  const after = nodeOf(key);
  if (!after) return;
  if (at) Object.assign(view, {x: at[0] - view.scale * after.left, y: at[1] - view.scale * after.top, moved: true});
  applyView();
  reveal(after);
  select({group: key});
}

// Draw another one of equal layers.
function step(key, by) {
  const group = nodeOf(key);
  if (!group || !isFold(group.group)) return;
  const count = group.group[3].length;
  state.chosen.set(key, (group.at + by + count) % count);
  redraw();
  select({group: key});
}

// Open all around an operator, of equal layers its own.
function openTo(index, op) {
  if (state.function !== index) show(index);
  for (const [key, group, at] of around(plan.functions[index], op)) {
    state.open.add(key);
    if (isFold(group)) state.chosen.set(key, at);
  }
  redraw();
  reveal(ownerOf(op));
}

function selectGroup(key) {
  let outer = "";
  for (const part of key.split("/").slice(0, -1)) state.open.add(outer = outer ? `${outer}/${part}` : part);
  if (!nodeOf(key)) redraw();
  const node = nodeOf(key);
  if (node) reveal(node);
  select({group: key});
}

function drawLegend() {
  const row = (fill, text) => element("div", {}, element("span", {class: "swatch", style: "background:" + fill}), text);
  $("legend").replaceChildren(row(WHOLE, "whole on every worker"), ...[...legend].map(([text, fill]) => row(fill, text)));
}

function rows(pairs) {
  return element("dl", {}, ...pairs.filter(p => p[1] !== "").flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

const link = v => element("a", {onclick: () => select({tensor: v})}, plan.tensors[v][0]);

function collectiveItem(c) {
  const [what, axis, held, us, , , why, span, branch] = c;
  return element("li", {}, element("b", {}, `${what} over ${axis}, ${bytes(held)}, ${micro(us)}`), element("div", {class: "dim"}, [why, branch, span].filter(Boolean).join("; ")));
}

function select({tensor, op, collective, group}) {
  const f = plan.functions[state.function], made = [];
  document.querySelectorAll("#canvas .on").forEach(e => e.classList.remove("on"));
  let moved = [];
  state.selected = group === undefined ? null : group;
  markRow(op !== undefined ? `op ${op}` : `group ${group}`);
  if (group !== undefined) {
    const node = nodeOf(group);
    if (!node) return;
    const {us, held, weights, moved: inside} = totals(f, node.lo, node.hi), count = node.group[3].length;
    made.push(element("h3", {}, groupName(node.group)), rows([["equal layers", count > 1 ? `${count}` : ""], ["operators", `${node.hi - node.lo}`], ["time", micro(us)],
      ["weights", weights ? `${weights}, ${bytes(held)} on a worker` : ""], ["collectives", counted(inside)]]));
    moved = inside;
    mark(`[data-key="${group}"]`);
  } else if (tensor !== undefined) {
    const [name, role, kept, shape, local, held, whole, sizes, why] = plan.tensors[tensor];
    const percent = whole ? ` (${Math.round(100 * held / whole)}%)` : "";
    made.push(element("h3", {}, name), sizes.length ? framed(tensor, 220, 120) : "", rows([["is", `${role}, ${shape}`], ["sharding", plan.shardings[kept][0]],
      ["on a worker", local], ["bytes", sizes.length ? `${bytes(held)} of ${bytes(whole)}${percent}` : ""], ["because", why]]));
    moved = plan.functions.flatMap(g => g.collectives.filter(c => c[4] === tensor));
    mark(`[data-tensor="${tensor}"]`);
  } else if (op !== undefined) {
    const [kindOf, name, operands, taken, results, given, us, splits, why] = f.ops[op];
    const list = (values, as) => element("span", {}, ...values.flatMap((v, i) => v < 0 ? [] : [i ? element("br") : "", link(v), ` as ${plan.shardings[as[i]][0]}`]));
    made.push(element("h3", {}, `${plan.ops[kindOf]} ${name}`), rows([["split", splits || "no"], ["time", micro(us)], ["takes", list(operands, taken)],
      ["makes", list(results, given)], ["replicated, as", why]]));
    moved = f.collectives.filter(c => c[5] === op);
    mark(`[data-op="${op}"]`);
  } else {
    const c = f.collectives[collective];
    made.push(element("h3", {}, `${c[0]} over ${c[1]}`), c[4] >= 0 ? element("p", {class: "dim"}, "of ", link(c[4])) : "");
    moved = [c];
  }
  if (moved.length) made.push(element("ul", {}, ...moved.slice(0, 20).map(collectiveItem)), moved.length > 20 ? `and ${moved.length - 20} more` : "");
  $("details").replaceChildren(...made);
}

function mark(selector) {
  const found = $("canvas").querySelector(selector);
  if (found) found.classList.add("on");
}

function drawMemory() {
  const local = plan.weights.reduce((sum, w) => sum + w[3], 0), whole = plan.weights.reduce((sum, w) => sum + w[4], 0);
  const parts = [...plan.weights].sort((a, b) => b[3] - a[3]).map((w, i) => [`${w[0]}${w[1] > 1 ? ` (${w[1]} of them)` : ""}`, w[3], PALETTE[i % PALETTE.length]]);
  Object.entries(plan.memory).forEach(([name, held], i) => held && parts.push([name, held, ["#444c58", "#8f98a6", "#c7cdd6"][i % 3]]));
  const total = parts.reduce((sum, p) => sum + p[1], 0), most = Math.max(total, whole, 1);
  const bar = () => element("div", {class: "bar"}, ...parts.map(([name, held, fill]) => element("i", {style: `width:${100 * held / most}%;background:${fill}`, title: `${name}: ${bytes(held)}`})));
  const shown = Math.min(plan.workers, 16);
  $("memory").append(...Array.from({length: shown}, (_, i) => element("div", {class: "worker"}, element("span", {}, `worker ${i}`), bar(), element("span", {}, bytes(total)))));
  if (plan.workers > shown) $("memory").append(element("p", {class: "dim"}, `and ${plan.workers - shown} more, all the same`));
  const more = Object.entries(plan.memory).filter(([, held]) => held).map(([name, held]) => `, ${name}: ${bytes(held)}`).join("");
  $("memory").append(element("p", {class: "dim"}, `weights: ${bytes(local)} of ${bytes(whole)}${more}`));
  if (plan.assumed.length) $("memory").append(element("p", {class: "dim"}, `weights are counted with assumed symbolic sizes: ${plan.assumed.join(", ")}; give them with sizes=`));
  if (plan.uncounted.length) $("memory").append(element("p", {class: "dim"}, `not counted, as nothing says how large: ${plan.uncounted.join(", ")}`));
}

const KEYS = [["+ and -, or Ctrl and the wheel", "zoom"], ["0", "all of it"], ["arrows, the wheel, dragging", "move"], ["/", "search"], ["Enter, or a double click", "open or close what is selected"],
  ["[ and ]", "the layer before, the next layer"], ["o", "overview"], ["t", "the tree, where arrows walk"], ["Esc", "nothing selected"], ["?", "this list"]];

function backToOverview() {
  kept.delete(state.function);
  show(state.function);
}

function keys(event) {
  if (event.target === $("search") || event.altKey) return;
  if ((event.ctrlKey || event.metaKey) && event.key !== "f") return;
  const fold = state.selected === null || state.selected === undefined ? "" : state.selected.split("/").map((_, i, all) => all.slice(0, all.length - i).join("/")).find(key => nodeOf(key) && isFold(nodeOf(key).group)) || "";
  const acts = {
    "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), "0": fit, o: backToOverview,
    ArrowLeft: () => pan(60, 0), ArrowRight: () => pan(-60, 0), ArrowUp: () => pan(0, 60), ArrowDown: () => pan(0, -60),
    "/": () => $("search").select(), f: () => $("search").select(), t: () => $("tree").firstChild && $("tree").firstChild.focus(),
    Enter: () => state.selected && toggle(state.selected), "[": () => fold && step(fold, -1), "]": () => fold && step(fold, 1),
    Escape: clear, "?": () => { $("help").hidden = !$("help").hidden; },
  };
  if (!acts[event.key] || (event.key === "f" && !event.ctrlKey && !event.metaKey)) return;
  event.preventDefault();
  acts[event.key]();
}

function clear() {
  $("found").hidden = $("help").hidden = true;
  state.selected = null;
  document.querySelectorAll("#canvas .on").forEach(e => e.classList.remove("on"));
  $("details").replaceChildren(element("p", {class: "hint"}, "Click a box, a picture or a collective. ? lists the keys."));
}

// The function with the most to see.
function largest() {
  const sizes = plan.functions.map(f => f.ops.length);
  return sizes.indexOf(Math.max(...sizes));
}

function start() {
  for (const f of plan.functions) $("tabs").append(element("button", {onclick: () => show(plan.functions.indexOf(f))}, f.name, element("small", {}, `${micro(f.us)}, ${f.collectives.length} collectives`)));
  $("notes").append(...plan.notes.map(n => element("p", {}, "note: " + n)), ...plan.remarks.map(n => element("p", {}, "remark: " + n)));
  for (const [name, count, shape, local, whole, like] of plan.weights) {
    const row = element("div", {class: "weight"}, like >= 0 ? framed(like, 64, 44) : "", element("div", {}, element("b", {}, name), count > 1 ? ` × ${count}` : "",
      element("div", {class: "dim"}, shape), element("div", {}, `${plan.shardings[plan.tensors[like][2]][0]}, ${bytes(local)} of ${bytes(whole)}`)));
    row.addEventListener("click", () => select({tensor: like}));
    $("weights").append(row);
  }
  drawMemory();
  $("search").addEventListener("input", () => search($("search").value));
  $("search").addEventListener("keydown", searchKeys);
  $("tree").addEventListener("keydown", treeKeys);
  $("help").append(rows(KEYS));
  for (const [id, act] of [["larger", () => zoom(1.25)], ["smaller", () => zoom(0.8)], ["fit", fit], ["overview", backToOverview]]) $(id).addEventListener("click", act);
  document.addEventListener("keydown", keys);
  watchCanvas();
  clear();
  if (plan.functions.length) show(largest());
  document.body.dataset.ready = "yes";
}
start();
