// Where each node stands: every open group is laid out on its own, in rows, and is then a node of the group around it.
const BOX = 190, TALL = 38, GROUP = 250, GROUP_TALL = 56, GAP = 26, BETWEEN = 36, PICTURE = 34, LABEL = 18, TITLE = 30, PAD = 16;

function layOut({root, edges}) {
  const links = new Map();
  const chain = node => node.parent ? [...chain(node.parent), node] : [node];
  for (const edge of edges) {
    const from = chain(edge.from), to = chain(edge.to);
    let i = 0;
    while (from[i] === to[i]) i++;
    edge.near = [from[i], to[i]];
    const inside = from[i - 1];
    links.set(inside, [...(links.get(inside) || []), edge.near]);
  }
  place(root, links);
  root.left = root.top = 0;
  settle(root);
}

// The rows of a group, and its size.
function place(group, links) {
  const nodes = group.children, above = new Map(nodes.map(n => [n, []])), below = new Map(nodes.map(n => [n, []]));
  for (const node of nodes) if (node.children) place(node, links);
  for (const [from, to] of links.get(group) || []) {
    above.get(to).push(from);
    below.get(from).push(to);
  }
  const isInput = n => n.chip !== undefined;
  for (const n of nodes) n.depth = Math.max(n.result || isInput(n) ? 0 : 1, ...above.get(n).map(p => p.depth + 1));
  // What comes of weights or inputs only stands just above the first that takes it.
  for (const n of nodes) n.loose = !n.result && above.get(n).every(p => p.loose && !isInput(p));
  for (const n of [...nodes].reverse()) if ((n.loose || isInput(n)) && below.get(n).length) n.depth = Math.max(0, Math.min(...below.get(n).map(b => b.depth)) - 1);
  const byDepth = [];
  for (const n of nodes) (byDepth[n.depth] = byDepth[n.depth] || []).push(n);
  const rows = byDepth.filter(Boolean);
  const sweep = (order, neighbours) => order.forEach(row => {
    for (const n of row) {
      const near = neighbours(n).map(p => p.x).filter(x => x !== undefined);
      n.wish = near.length ? near.reduce((a, b) => a + b) / near.length : n.x || 0;
    }
    row.sort((a, b) => a.wish - b.wish);
    let edge = -Infinity;
    for (const n of row) {
      n.x = Math.max(n.wish, edge + n.width / 2);
      edge = n.x + n.width / 2 + GAP;
    }
    const shift = row.reduce((sum, n) => sum + n.x - n.wish, 0) / row.length;
    for (const n of row) n.x -= shift;
  });
  for (const n of nodes) n.x = undefined;
  sweep(rows, n => above.get(n));
  sweep([...rows].reverse(), n => below.get(n));
  sweep(rows, n => above.get(n).length ? above.get(n) : below.get(n));
  let y = group.parent ? TITLE : PAD;
  rows.forEach((row, i) => {
    y += i ? BETWEEN + Math.max(...row.map(n => n.labelsAbove || 0)) * LABEL : 0;
    const tall = Math.max(...row.map(n => n.height + (n.labelsBelow || 0) * LABEL));
    for (const n of row) Object.assign(n, {y, row: i});
    y += tall;
  });
  const skips = (links.get(group) || []).some(([from, to]) => to.row > from.row + 1);
  const left = Math.min(...nodes.map(n => n.x - n.width / 2)) - PAD, right = Math.max(...nodes.map(n => n.x + n.width / 2)) + PAD + (skips ? 44 : 0);
  for (const n of nodes) n.x -= left;
  group.rows = rows;
  group.width = Math.max(right - left, group.parent ? GROUP : 300);
  if (right - left < group.width) for (const n of nodes) n.x += (group.width - right + left) / 2;
  group.height = y + PAD;
}

// Places in the drawing: `left` and `top` of each node.
function settle(group) {
  for (const node of group.children) {
    node.left = group.left + node.x - node.width / 2;
    node.top = group.top + node.y;
    if (node.children) settle(node);
  }
}

// A line that passes nodes between its ends goes around them.
function route({from, to, near: [a, b]}) {
  const x0 = from.left + (from.boxLeft || 0) + ((from.width - (from.boxLeft || 0)) / 2), y0 = from.top + from.height;
  const x1 = to.left + (to.boxLeft || 0) + ((to.width - (to.boxLeft || 0)) / 2), y1 = to.top;
  const bend = Math.max(20, Math.min(60, (y1 - y0) / 2));
  const low = Math.min(x0, x1) - 12, high = Math.max(x0, x1) + 12, between = a.parent.rows.slice(a.row + 1, b.row);
  for (let n = from; n !== a; n = n.parent) between.push(...n.parent.rows.slice(n.row + 1));  // on the way out of groups
  for (let n = to; n !== b; n = n.parent) between.push(...n.parent.rows.slice(0, n.row));  // and into groups
  const passed = between.flat().filter(n => n.left < high && n.left + n.width > low);
  if (!passed.length) return [`M${x0},${y0}C${x0},${y0 + bend} ${x1},${y1 - bend} ${x1},${y1}`, x1, y1];
  const side = Math.max(...passed.map(n => n.left + n.width)) + 22, top = Math.min(...passed.map(n => n.top)), end = Math.max(...passed.map(n => n.top + n.height));
  return [`M${x0},${y0}C${x0},${y0 + bend} ${side},${top - bend} ${side},${Math.max(top, y0)}V${Math.min(end, y1)}C${side},${end + bend} ${x1},${y1 - bend} ${x1},${y1}`, x1, y1];
}
