// The graph of one function: a box an operator, a line a value in the colour of its sharding, a red label a collective.
const BOX = 178, TALL = 36, ROW = 92, GAP = 26, PICTURE = 34;

// Operators that are drawn: of equal layers one, of its choice.
function visible(f, chosen) {
  const made = [], stand = new Map();
  let at = 0;
  const plain = stop => { for (; at < stop; at++) { made.push(at); stand.set(at, at); } };
  f.repeats.forEach(([start, period, count], i) => {
    plain(start);
    const shown = Math.min(chosen[i] || 0, count - 1);
    for (let k = 0; k < count; k++) for (let j = 0; j < period; j++) stand.set(start + k * period + j, start + shown * period + j);
    for (let j = 0; j < period; j++) made.push(start + shown * period + j);
    at = start + period * count;
  });
  plain(f.ops.length);
  return [made, stand];
}

function short(text, most) {
  return text.length > most ? "…" + text.slice(1 - most) : text;
}

function drawGraph(f, chosen, select) {
  const [shown, stand] = visible(f, chosen), isShown = new Set(shown);
  const maker = new Map();
  f.ops.forEach((op, i) => op[4].forEach(v => maker.set(v, [...(maker.get(v) || []), i])));  // two, where branches join
  const foldOf = new Map();
  f.repeats.forEach(([start, period, count], i) => {
    for (let j = 0; j < period; j++) foldOf.set(start + Math.min(chosen[i] || 0, count - 1) * period + j, i);
  });
  const nodes = [], byOp = new Map(), chips = new Map(), edges = [];
  const add = node => (nodes.push(node), node);
  // What a layer that is not drawn makes, stands for the same of the one that is drawn.
  const sources = v => maker.has(v) ? maker.get(v).flatMap(from => byOp.has(stand.get(from)) ? [[byOp.get(stand.get(from)), !isShown.has(from)]] : [])
    : chips.has(v) ? [[chips.get(v), false]] : [];
  for (const i of shown) {
    const op = f.ops[i], weights = [], parents = [];
    let depth = 0;
    op[2].forEach((v, k) => {
      if (v < 0) return;
      const [name, role] = plan.tensors[v];
      if (role === "weight" || role === "constant") return weights.push([v, k]);
      if (!maker.has(v) && !chips.has(v)) chips.set(v, add({chip: v, depth: 0, parents: [], width: 120}));
      parents.push(...sources(v).map(([parent, far]) => [parent, v, k, far]));
    });
    for (const [parent] of parents) depth = Math.max(depth, parent.depth + 1);
    const node = add({op: i, depth: Math.max(depth, 1), parents, weights, width: BOX + weights.length * (PICTURE + 34), fold: foldOf.get(i)});
    byOp.set(i, node);
    for (const [parent, v, k, far] of parents) edges.push({from: parent, to: node, v, k, far});
  }
  for (const v of f.returns) {
    const parents = sources(v), node = add({result: v, depth: Math.max(0, ...parents.map(([p]) => p.depth)) + 1, parents, width: 120});
    for (const [parent, far] of parents) edges.push({from: parent, to: node, v, k: -1, far});
  }

  if (!nodes.length) return drawn("svg", {id: "drawing", height: 60, width: 300}, drawn("text", {x: 20, y: 30}, "nothing to draw"));

  // What comes of weights or inputs only stands just above the first that takes it.
  for (const node of nodes) node.loose = node.parents.every(([parent]) => parent.loose && parent.chip === undefined) && node.result === undefined;
  const below = new Map(nodes.map(node => [node, []]));
  for (const e of edges) below.get(e.from).push(e.to);
  for (const node of [...nodes].reverse()) {
    if (node.loose && below.get(node).length) node.depth = Math.max(0, Math.min(...below.get(node).map(n => n.depth)) - 1);
  }
  for (const node of chips.values()) node.depth = Math.max(0, Math.min(...below.get(node).map(n => n.depth)) - 1);
  const rows = [];
  for (const node of nodes) (rows[node.depth] = rows[node.depth] || []).push(node);
  const sweep = (order, neighbours) => {
    for (const row of order) {
      for (const node of row) {
        const near = neighbours(node).map(n => n.x).filter(x => x !== undefined);
        node.wish = near.length ? near.reduce((a, b) => a + b) / near.length : node.x || 0;
      }
      row.sort((a, b) => a.wish - b.wish);
      let edge = -Infinity;
      for (const node of row) {
        node.x = Math.max(node.wish, edge + node.width / 2);
        edge = node.x + node.width / 2 + GAP;
      }
      const shift = row.reduce((sum, node) => sum + node.x - node.wish, 0) / row.length;
      for (const node of row) node.x -= shift;
    }
  };
  const order = rows.filter(Boolean), above = node => node.parents.map(p => p[0]);
  sweep(order, above);
  sweep([...order].reverse(), node => below.get(node));
  sweep(order, node => node.parents.length ? above(node) : below.get(node));
  let wide = 0;
  const left = Math.min(...nodes.map(n => n.x - n.width / 2)) - 20;
  for (const node of nodes) {
    node.x -= left;
    node.y = 24 + node.depth * ROW;
    wide = Math.max(wide, node.x + node.width / 2 + 20);
  }
  const height = 24 + rows.length * ROW;
  const svg = drawn("svg", {width: Math.max(wide, 300), height, id: "drawing"});
  const lines = drawn("g"), boxes = drawn("g"), labels = drawn("g");
  const frames = drawn("g");
  svg.append(frames, lines, boxes, labels);
  f.repeats.forEach(([, , count], i) => {
    const inside = nodes.filter(n => n.fold === i);
    const x0 = Math.min(...inside.map(n => n.x - n.width / 2)) - 12, x1 = Math.max(...inside.map(n => n.x + n.width / 2)) + 12;
    const y0 = Math.min(...inside.map(n => n.y)) - 20, y1 = Math.max(...inside.map(n => n.y)) + TALL + 20;
    frames.append(drawn("rect", {class: "repeat", x: x0, y: y0, width: x1 - x0, height: y1 - y0, rx: 10}),
      drawn("text", {class: "count", x: x0 + 10, y: y0 + 20}, `× ${count}`));
  });

  const label = (c, x, y) => {
    const [what, axis, held, us] = f.collectives[c], text = `${what} ${axis} ${bytes(held)}`, w = text.length * 5.7 + 12;
    const made = drawn("g", {class: "collective", transform: `translate(${x - w / 2},${y - 8})`, "data-at": c},
      hover(`${text}, ${micro(us)}`), drawn("rect", {width: w, height: 16, rx: 8}), drawn("text", {x: 6, y: 11.5}, text));
    made.addEventListener("click", () => select({collective: c}));
    labels.append(made);
  };
  const makes = new Map(), takes = new Map(), inside = new Map();
  f.collectives.forEach((c, i) => {
    const at = c[5], op = f.ops[at];
    const [where, key] = at < 0 ? [takes, "end," + c[4]] : op[4].includes(c[4]) ? [makes, at] : op[2].includes(c[4]) ? [takes, at + "," + c[4]] : [inside, at];
    where.set(key, [...(where.get(key) || []), i]);
  });

  for (const e of edges) {
    const kept = plan.tensors[e.v][2], key = e.to.op === undefined ? "end," + e.v : e.to.op + "," + e.v;
    const moved = takes.get(key) || [];
    const x0 = e.from.x, y0 = e.from.y + TALL, x1 = e.to.x, y1 = e.to.y, bend = Math.min(60, (y1 - y0) / 2);
    const line = drawn("path", {d: `M${x0},${y0}C${x0},${y0 + bend} ${x1},${y1 - bend} ${x1},${y1}`, stroke: colour(kept),
      class: "edge" + (e.far ? " far" : "") + (moved.length ? " moved" : "")}, hover(`${plan.tensors[e.v][0]}: ${plan.shardings[kept][0]}`));
    line.addEventListener("click", () => select({tensor: e.v}));
    lines.append(line);
    moved.forEach((c, i) => label(c, x1, y1 - 14 - 18 * (moved.length - 1 - i)));
  }
  for (const node of nodes) {
    const x = node.x - node.width / 2, y = node.y;
    if (node.op === undefined) {
      const v = node.chip === undefined ? node.result : node.chip, [name, , kept] = plan.tensors[v];
      const made = drawn("g", {class: "chip", transform: `translate(${x},${y})`, "data-tensor": v},
        hover(`${name}: ${plan.shardings[kept][0]}`), drawn("rect", {width: 120, height: 24, rx: 12, y: node.chip === undefined ? 0 : 12, fill: colour(kept), "fill-opacity": 0.3}),
        drawn("text", {x: 60, y: node.chip === undefined ? 16 : 28, "text-anchor": "middle"}, (node.chip === undefined ? "return " : "") + short(name.split(".").pop(), 15)));
      made.addEventListener("click", () => select({tensor: v}));
      boxes.append(made);
      continue;
    }
    const op = f.ops[node.op], out = op[5].length ? op[5][0] : -1, start = node.weights.length * (PICTURE + 34);
    const made = drawn("g", {class: "op" + (node.fold === undefined ? "" : " fold"), transform: `translate(${x},${y})`, "data-op": node.op}, hover(op[8] ? "replicated: " + op[8] : op[7] ? "split: " + op[7] : "not split"),
      drawn("rect", {class: "box", x: start, width: BOX, height: TALL, rx: 5}), drawn("rect", {x: start, width: 7, height: TALL, rx: 3, fill: colour(out)}),
      drawn("text", {x: start + 14, y: 15}, short(plan.ops[op[0]].replace(/^relax\./, ""), 26)),
      drawn("text", {x: start + 14, y: 29, class: "small"}, short(op[1], 22) + (op[6] > 0 ? "  " + micro(op[6]) : "")));
    made.addEventListener("click", () => select({op: node.op}));
    node.weights.forEach(([v, k], i) => {
      const where = i * (PICTURE + 34);
      const weight = drawn("g", {class: "weight-node", transform: `translate(${x + where},${y + 1})`, "data-tensor": v}, picture(v, PICTURE, PICTURE));
      const stem = i === node.weights.length - 1 ? 34 : 12;
      weight.append(drawn("path", {d: `M${PICTURE},${PICTURE / 2}h${stem}`, stroke: colour(plan.tensors[v][2]), class: "edge"}));
      weight.addEventListener("click", event => (event.stopPropagation(), select({tensor: v})));
      boxes.append(weight);
      for (const c of takes.get(node.op + "," + v) || []) label(c, x + where + PICTURE / 2, y + TALL + 12);
    });
    boxes.append(made);
    [...(inside.get(node.op) || []), ...(makes.get(node.op) || [])].forEach((c, i) => label(c, node.x, y + TALL + 9 + 18 * i));
    node.x0 = start;
  }
  return svg;
}
