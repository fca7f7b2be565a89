// The graph of one function: boxes for operators and modules, a line a value in the colour of its sharding, a red label a collective.
const MOST_CHIPS = 12;
const isWeight = v => ["weight", "constant"].includes(plan.tensors[v][1]);

function short(text, most) {
  return text.length > most ? "…" + text.slice(1 - most) : text;
}

function cut(text, most) {
  return text.length > most ? text.slice(0, most - 1) + "…" : text;
}

// What a range of operators does: its time, its collectives, and its weights on a worker.
function totals(f, lo, hi) {
  let us = 0, held = 0;
  const weights = new Set();
  for (let i = lo; i < hi; i++) {
    us += f.ops[i][6];
    for (const v of f.ops[i][2]) if (v >= 0 && isWeight(v)) weights.add(v);
  }
  for (const v of weights) held += plan.tensors[v][5];
  const moved = f.collectives.filter(c => c[5] >= lo && c[5] < hi);
  return {us, held, weights: weights.size, moved};
}

function counted(moved) {
  const kinds = new Map();
  for (const c of moved) kinds.set(c[0], (kinds.get(c[0]) || 0) + 1);
  return [...kinds].map(([name, n]) => `${n} ${name}`).join(", ");
}

// The collectives of a function by where they are drawn: before an operator, inside it, after it.
function labelsOf(f) {
  const makes = new Map(), takes = new Map(), inside = new Map();
  f.collectives.forEach((c, i) => {
    const at = c[5], op = f.ops[at];
    const [where, key] = at < 0 ? [takes, "end," + c[4]] : op[4].includes(c[4]) ? [makes, at] : op[2].includes(c[4]) ? [takes, at + "," + c[4]] : [inside, at];
    where.set(key, [...(where.get(key) || []), i]);
  });
  return {makes, takes, inside};
}

// How large each node is, with what is written around it.
function measure(scene, f, labels) {
  for (const node of [...scene.leaves, ...scene.root.children]) {
    if (node.op !== undefined) {
      const weights = f.ops[node.op][2].map((v, k) => [v, k]).filter(([v]) => v >= 0 && isWeight(v));
      const boxLeft = weights.length * (PICTURE + 34);
      Object.assign(node, {weights, boxLeft, width: BOX + boxLeft, height: TALL});
      node.labelsBelow = (labels.inside.get(node.op) || []).length + (labels.makes.get(node.op) || []).length;
      node.labelsAbove = Math.max(0, ...f.ops[node.op][2].map(v => (labels.takes.get(`${node.op},${v}`) || []).length));
    } else if (node.group && !node.children) {
      Object.assign(node, {width: GROUP, height: GROUP_TALL});
    } else if (!node.group) {
      Object.assign(node, {width: 150, height: 24, labelsAbove: Math.max(0, ...(node.result || []).map(v => (labels.takes.get("end," + v) || []).length))});
    }
  }
}

function drawGraph(f, state) {
  const svg = drawn("svg", {id: "drawing"}), view = drawn("g", {id: "view"});
  svg.append(view);
  if (!f.ops.length && !f.returns.length) {
    view.append(drawn("text", {x: 20, y: 30}, "nothing to draw"));
    return {svg, root: {left: 0, top: 0, width: 200, height: 60}, leaves: []};
  }
  const scene = makeScene(f, state.open, state.chosen), labels = labelsOf(f);
  measure(scene, f, labels);
  layOut(scene);
  const [frames, lines, boxes, marks] = [drawn("g"), drawn("g"), drawn("g"), drawn("g")];
  view.append(frames, lines, boxes, marks);
  const label = (c, x, y) => marks.append(collectiveLabel(f, c, x, y));
  for (const edge of scene.edges) drawLine(edge, labels, lines, label);
  const visit = node => {
    if (node.children) {
      if (node.parent) frames.append(drawFrame(f, node));
      node.children.forEach(visit);
    } else if (node.group) boxes.append(drawGroup(f, node));
    else if (node.op !== undefined) drawOperator(f, node, boxes, labels, label);
    else boxes.append(drawChip(node));
  };
  visit(scene.root);
  return {svg, ...scene};
}

function collectiveLabel(f, c, x, y) {
  const [what, axis, held, us] = f.collectives[c], text = `${what} ${axis} ${bytes(held)}`, w = text.length * 5.7 + 12;
  const made = drawn("g", {class: "collective", transform: `translate(${x - w / 2},${y - 8})`, "data-at": c},
    hover(`${text}, ${micro(us)}`), drawn("rect", {width: w, height: 16, rx: 8}), drawn("text", {x: 6, y: 11.5}, text));
  made.addEventListener("click", () => select({collective: c}));
  return made;
}

function drawLine(edge, labels, lines, label) {
  const {from, to, moves} = edge, [v] = moves[0], kept = plan.tensors[v][2], [path, x, y] = route(edge);
  const values = [...new Set(moves.map(m => m[0]))];
  const moved = to.group ? [] : values.flatMap(w => labels.takes.get(to.op === undefined ? "end," + w : `${to.op},${w}`) || []);
  const names = values.slice(0, 6).map(w => `${plan.tensors[w][0]}: ${plan.shardings[plan.tensors[w][2]][0]}`);
  const line = drawn("path", {d: path, stroke: colour(kept), class: "edge" + (moves.every(m => m[2]) ? " far" : "") + (moved.length ? " moved" : "")},
    hover(names.join("\n") + (values.length > 6 ? `\nand ${values.length - 6} more` : "")));
  line.addEventListener("click", () => select({tensor: v}));
  lines.append(line);
  moved.forEach((c, i) => label(c, x, y - 12 - LABEL * (moved.length - 1 - i)));
}

function button(x, y, text, title, act) {
  const made = drawn("g", {class: "button", transform: `translate(${x},${y})`}, hover(title), drawn("rect", {width: 20, height: 20, rx: 4}),
    drawn("text", {x: 10, y: 14.5, "text-anchor": "middle"}, text));
  made.addEventListener("click", event => (event.stopPropagation(), act()));
  return made;
}

// An open group: a frame with its name, and of equal layers the one that is chosen.
function drawFrame(f, node) {
  const made = drawn("g", {class: "frame" + (isFold(node.group) ? " fold" : ""), transform: `translate(${node.left},${node.top})`, "data-key": node.key},
    drawn("rect", {class: "around", width: node.width, height: node.height, rx: 8}),
    drawn("text", {class: "name", x: 32, y: 19}, short(isFold(node.group) ? groupName(node.group, node.at) : node.group[0], 40)),
    button(6, 5, "−", "close", () => toggle(node.key)));
  if (isFold(node.group)) {
    const count = node.group[3].length;
    made.append(drawn("text", {class: "count", x: node.width - 62, y: 20, "text-anchor": "end"}, `× ${count}`),
      button(node.width - 54, 5, "‹", "the layer before", () => step(node.key, -1)), button(node.width - 30, 5, "›", "the next layer", () => step(node.key, 1)));
  }
  made.addEventListener("click", () => select({group: node.key}));
  made.addEventListener("dblclick", () => toggle(node.key));
  return made;
}

function drawGroup(f, node) {
  const fold = isFold(node.group), {us, held, moved} = totals(f, node.lo, node.hi);
  const made = drawn("g", {class: "group" + (fold ? " fold" : ""), transform: `translate(${node.left},${node.top})`, "data-key": node.key},
    hover(`${groupName(node.group)}: ${node.hi - node.lo} operators; a double click opens it`));
  if (fold) for (const d of [6, 3]) made.append(drawn("rect", {class: "box", x: d, y: d, width: GROUP, height: GROUP_TALL, rx: 6}));
  made.append(drawn("rect", {class: "box", width: GROUP, height: GROUP_TALL, rx: 6}), button(6, 6, "+", "open", () => toggle(node.key)),
    drawn("text", {class: "name", x: 32, y: 20}, short(groupName(node.group), fold ? 24 : 30)),
    drawn("text", {class: "small", x: 32, y: 34}, `${node.hi - node.lo} operators, ${micro(us)}${held ? `, weights ${bytes(held)}` : ""}`),
    drawn("text", {class: "small moved", x: 32, y: 48}, moved.length ? cut(counted(moved), 38) : ""));
  if (fold) made.append(drawn("text", {class: "count", x: GROUP - 10, y: 21, "text-anchor": "end"}, `× ${node.group[3].length}`));
  made.addEventListener("click", () => select({group: node.key}));
  made.addEventListener("dblclick", () => toggle(node.key));
  return made;
}

function drawChip(node) {
  const vs = node.chip || node.result, [v] = vs, [name, , kept] = plan.tensors[v], word = node.chip ? "" : "return ";
  const text = vs.length > 1 ? `${word}${vs.length} ${node.chip ? "inputs" : "values"}` : word + short(name.split(".").pop(), 15);
  const made = drawn("g", {class: "chip", transform: `translate(${node.left},${node.top})`, "data-tensor": v},
    hover(vs.slice(0, 20).map(w => `${plan.tensors[w][0]}: ${plan.shardings[plan.tensors[w][2]][0]}`).join("\n")),
    drawn("rect", {width: 150, height: 24, rx: 12, fill: colour(kept), "fill-opacity": 0.3}), drawn("text", {x: 75, y: 16, "text-anchor": "middle"}, text));
  made.addEventListener("click", () => select({tensor: v}));
  return made;
}

function drawOperator(f, node, boxes, labels, label) {
  const {left: x, top: y, boxLeft: start} = node, op = f.ops[node.op], out = op[5].length ? op[5][0] : -1;
  const made = drawn("g", {class: "op", transform: `translate(${x},${y})`, "data-op": node.op}, hover(op[8] ? "replicated: " + op[8] : op[7] ? "split: " + op[7] : "not split"),
    drawn("rect", {class: "box", x: start, width: BOX, height: TALL, rx: 5}), drawn("rect", {x: start, width: 7, height: TALL, rx: 3, fill: colour(out)}),
    drawn("text", {x: start + 14, y: 16}, short((node.label ? node.label + ": " : "") + plan.ops[op[0]].replace(/^relax\./, ""), 28)),
    drawn("text", {x: start + 14, y: 30, class: "small"}, short(op[1], 24) + (op[6] > 0 ? "  " + micro(op[6]) : "")));
  made.addEventListener("click", () => select({op: node.op}));
  node.weights.forEach(([v], i) => {
    const where = i * (PICTURE + 34), stem = i === node.weights.length - 1 ? 34 : 12;
    const weight = drawn("g", {class: "weight-node", transform: `translate(${x + where},${y + 1})`, "data-tensor": v}, picture(v, PICTURE, PICTURE),
      drawn("path", {d: `M${PICTURE},${PICTURE / 2}h${stem}`, stroke: colour(plan.tensors[v][2]), class: "edge"}));
    weight.addEventListener("click", event => (event.stopPropagation(), select({tensor: v})));
    boxes.append(weight);
    for (const c of labels.takes.get(`${node.op},${v}`) || []) label(c, x + where + PICTURE / 2, y + TALL + 12);
  });
  boxes.append(made);
  [...(labels.inside.get(node.op) || []), ...(labels.makes.get(node.op) || [])].forEach((c, i) => label(c, x + start + BOX / 2, y + TALL + 10 + LABEL * i));
}
