// What is drawn of a function: its tree of modules, open where the reader opened it, and of equal layers one.
// A group is [name, first operator, operators of one, names of the equal ones, children]; an operator is its number.
const SMALL = 40;

const isGroup = item => typeof item !== "number";
const isFold = item => isGroup(item) && item[3].length > 1;
const holdsFold = item => isGroup(item) && (isFold(item) || item[4].some(holdsFold));
const single = item => isGroup(item) && item[2] === 1 && !isFold(item);

// "layers.*" with its numbers: "layers.0-79", "layers.3" alone.
function groupName([name, , , names], at) {
  if (names.length < 2) return name;
  if (at !== undefined) return names[at];
  const [first, last] = [names[0], names[names.length - 1]], tail = last.split(".").pop();
  return first.split(".").slice(0, -1).join(".") === last.split(".").slice(0, -1).join(".") ? `${first}-${tail}` : `${first} - ${last}`;
}

// What is open at first: all that leads to equal layers, and small functions as a whole.
function overview(f) {
  const open = new Set([""]);
  const visit = (item, key) => item[4].forEach((child, i) => {
    const inner = key ? `${key}/${i}` : `${i}`;
    if (!isGroup(child) || isFold(child) || !(f.ops.length <= SMALL || holdsFold(child))) return;
    open.add(inner);
    visit(child, inner);
  });
  visit(f.tree, "");
  let alone = f.tree, key = "";
  while (alone[4].length === 1 && isGroup(alone[4][0]) && !isFold(alone[4][0])) {  // one box alone says nothing
    key = key ? `${key}/0` : "0";
    open.add(key);
    alone = alone[4][0];
  }
  return open;
}

// The groups around an operator, outermost first: [key, group, which of the equal ones, how much further on than the first].
function around(f, op) {
  const found = [];
  let group = f.tree, key = "", offset = 0;
  for (;;) {
    const i = group[4].findIndex(child => isGroup(child) && op - offset >= child[1] && op - offset < child[1] + child[2] * child[3].length);
    if (i < 0) return found;
    group = group[4][i];
    key = key ? `${key}/${i}` : `${i}`;
    const at = Math.floor((op - offset - group[1]) / group[2]);
    offset += at * group[2];
    found.push([key, group, at, offset]);
  }
}

// The nodes that are drawn and the lines between them.
function makeScene(f, open, chosen) {
  const owner = [], hidden = [], leaves = [], chips = new Map(), edges = new Map();
  const make = (item, offset, key, parent) => {
    if (parent && (!isGroup(item) || single(item))) {
      const op = (isGroup(item) ? item[1] : item) + offset, node = {op, lo: op, hi: op + 1, key, parent, label: isGroup(item) ? item[0] : ""};
      owner[op] = node;
      leaves.push(node);
      return node;
    }
    const [, start, size, names, children] = item, lo = start + offset, hi = lo + size * names.length;
    const at = Math.min(chosen.get(key) || 0, names.length - 1), node = {group: item, lo, hi, key, parent, at};
    if (!open.has(key)) {
      leaves.push(node);
      for (let i = lo; i < hi; i++) owner[i] = node;
      return node;
    }
    node.children = children.map((child, i) => make(child, offset + at * size, key ? `${key}/${i}` : `${i}`, node));
    for (let i = lo; i < hi; i++) {
      const stand = lo + at * size + (i - lo) % size;
      if (i === stand) continue;
      owner[i] = owner[stand];  // what a layer that is not drawn makes, stands for the same of the one that is drawn
      hidden[i] = true;
    }
    return node;
  };
  const root = make(f.tree, 0, "", null);
  leaves.forEach((node, i) => { node.order = i; });
  const maker = new Map();
  f.ops.forEach((op, i) => op[4].forEach(v => maker.set(v, [...(maker.get(v) || []), i])));  // two, where branches join
  const link = (from, to, v, k, far) => {
    const key = `${from.key}>${to.key}`, edge = edges.get(key) || {from, to, moves: []};
    edge.moves.push([v, k, far]);
    edges.set(key, edge);
  };
  const isInput = v => v >= 0 && !maker.has(v) && plan.tensors[v][1] === "input";
  const inputs = new Set([...f.ops.flatMap(op => op[2]), ...f.returns].filter(isInput));  // and no small constants
  const many = inputs.size > MOST_CHIPS ? {chip: [...inputs], key: "inputs", parent: root} : null;
  for (const v of inputs) chips.set(v, many || {chip: [v], key: `input ${v}`, parent: root});
  // What the first of equal layers takes in this place, where the one that is drawn takes it from the one before.
  const beforeLayers = (op, k, m) => {
    const fold = around(f, op).find(([, group, at, offset]) => isFold(group) && at > 0 && m >= group[1] + offset - at * group[2] && m < group[1] + offset);
    if (!fold) return [];
    const [, group, at] = fold, v = f.ops[op - at * group[2]][2][k];
    return (maker.get(v) || []).map(from => [owner[from], v]).concat(chips.has(v) ? [[chips.get(v), v]] : []);
  };
  for (const node of leaves) {
    for (let op = node.lo; op < node.hi; op++) {
      f.ops[op][2].forEach((v, k) => {
        if (chips.has(v)) link(chips.get(v), node, v, k, false);
        for (const m of maker.get(v) || []) {
          const from = owner[m];
          if (from === node) continue;
          if (from.order < node.order) link(from, node, v, k, Boolean(hidden[m]));
          else for (const [far, v0] of beforeLayers(op, k, m)) if (far.order === undefined || far.order < node.order) link(far, node, v0, k, true);
        }
      });
    }
  }
  const results = f.returns.length > MOST_CHIPS ? [{result: f.returns, key: "results", parent: root}] : f.returns.map((v, i) => ({result: [v], key: `result ${i}`, parent: root}));
  for (const node of results) {
    for (const v of node.result) {
      for (const m of maker.get(v) || []) link(owner[m], node, v, -1, Boolean(hidden[m]));
      if (chips.has(v)) link(chips.get(v), node, v, -1, false);
    }
  }
  root.children = [...new Set(chips.values()), ...root.children, ...results];
  return {root, leaves, edges: [...edges.values()], chips, owner};
}
