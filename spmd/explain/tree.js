// The tree of modules beside the graph. What is open here is open there.
function drawTree(f) {
  const open = new Set([...document.querySelectorAll("#tree [aria-selected=true]")].map(row => row.dataset.at));
  const row = (depth, at, text, more, act, toggled) => {
    const twist = element("span", {class: "twist"}, toggled === undefined ? "" : toggled ? "▾" : "▸");
    const made = element("div", {class: "row", role: "treeitem", tabindex: -1, "data-at": at, "aria-level": depth + 1, style: `padding-left:${4 + 14 * depth}px`, title: text},
      twist, element("span", {class: "text"}, text), element("small", {}, more));
    if (toggled !== undefined) made.setAttribute("aria-expanded", String(toggled));
    if (open.has(at)) made.setAttribute("aria-selected", "true");
    made.addEventListener("click", act);
    return made;
  };
  const rows = [];
  const visit = (item, key, offset, depth) => {
    if (!isGroup(item)) {
      const op = item + offset;
      rows.push(row(depth, `op ${op}`, f.ops[op][1] || plan.ops[f.ops[op][0]], plan.ops[f.ops[op][0]].replace(/^relax\./, ""), () => (reveal(ownerOf(op)), select({op}))));
      return;
    }
    const [, start, size, names, children] = item, at = Math.min(state.chosen.get(key) || 0, names.length - 1), isOpen = state.open.has(key);
    const lo = start + offset, us = totals(f, lo, lo + size * names.length).us;
    const made = row(depth, `group ${key}`, isOpen && isFold(item) ? groupName(item, at) : groupName(item), (isFold(item) ? `× ${names.length}  ` : "") + micro(us), () => selectGroup(key), isOpen);
    made.querySelector(".twist").addEventListener("click", event => (event.stopPropagation(), toggle(key), focusRow(`group ${key}`)));
    made.addEventListener("dblclick", () => (toggle(key), focusRow(`group ${key}`)));
    rows.push(made);
    if (isOpen) children.forEach((child, i) => visit(child, `${key}/${i}`, offset + at * size, depth + 1));
  };
  f.tree[4].forEach((child, i) => visit(child, `${i}`, 0, 0));
  $("tree").replaceChildren(...rows);
  if (rows.length) rows[0].tabIndex = 0;
}

function focusRow(at) {
  const row = [...$("tree").children].find(r => r.dataset.at === at);
  if (row) row.focus();
}

function markRow(at) {
  for (const row of $("tree").children) {
    row.dataset.at === at ? row.setAttribute("aria-selected", "true") : row.removeAttribute("aria-selected");
    if (row.dataset.at === at && row.scrollIntoView) row.scrollIntoView({block: "nearest"});
  }
}

// Arrows walk, open and close; Enter selects.
function treeKeys(event) {
  const rows = [...$("tree").children], here = rows.indexOf(document.activeElement), row = rows[here];
  if (!row) return;
  const [what, key] = row.dataset.at.split(" "), isOpen = row.getAttribute("aria-expanded");
  const go = to => to && (to.focus(), event.preventDefault(), event.stopPropagation());
  if (event.key === "ArrowDown") go(rows[here + 1]);
  else if (event.key === "ArrowUp") go(rows[here - 1]);
  else if (event.key === "ArrowRight" && what === "group" && isOpen === "false") { toggle(key); focusRow(row.dataset.at); event.preventDefault(); event.stopPropagation(); }
  else if (event.key === "ArrowLeft" && what === "group" && isOpen === "true") { toggle(key); focusRow(row.dataset.at); event.preventDefault(); event.stopPropagation(); }
  else if (event.key === "ArrowLeft") go(rows.slice(0, here).reverse().find(r => Number(r.getAttribute("aria-level")) < Number(row.getAttribute("aria-level"))));
  else if (event.key === "Enter") { row.click(); event.preventDefault(); event.stopPropagation(); }
}
