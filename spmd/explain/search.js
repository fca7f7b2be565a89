// Search: equal layers are one line, which opens the first of them; a number in the text finds the one.
const MOST_FOUND = 60;
const layerless = name => name.replace(/([._]|^)\d+(?=[._]|$)/g, "$1*");

function found(text) {
  const wanted = text.trim().toLowerCase(), lines = new Map();
  if (!wanted) return [];
  const add = (key, name, more, act) => {
    const line = lines.get(key);
    if (line) line.count++;
    else if (lines.size < MOST_FOUND) lines.set(key, {name, more, act, count: 1, folded: layerless(name)});
  };
  const tensors = ofWeights => plan.tensors.forEach(([name, , kept], v) => {
    if (!name.toLowerCase().includes(wanted) || isWeight(v) !== ofWeights) return;
    const numbered = /\d/.test(wanted) && !layerless(name).toLowerCase().includes(wanted);
    add(numbered ? name : `${layerless(name)} ${kept}`, name, plan.shardings[kept][0], () => goTo(v));
  });
  tensors(true);
  plan.functions.forEach((f, i) => {
    const groups = (item, key, path) => item[4].forEach((child, j) => {
      if (!isGroup(child)) return;
      const inner = key ? `${key}/${j}` : `${j}`, name = path ? `${path}.${groupName(child)}` : groupName(child);
      if (groupName(child).toLowerCase().includes(wanted)) add(`module ${i} ${inner}`, name, `module of ${f.name}`, () => { if (state.function !== i) show(i); selectGroup(inner); });
      groups(child, inner, name);
    });
    groups(f.tree, "", "");
  });
  tensors(false);
  plan.functions.forEach((f, i) => {
    f.ops.forEach((op, at) => {
      const kind = plan.ops[op[0]];
      if (`${kind} ${op[1]}`.toLowerCase().includes(wanted)) add(`op ${i} ${kind} ${layerless(op[1]).replace(/\d+$/, "")}`, op[1], `${kind} in ${f.name}`, () => (openTo(i, at), select({op: at})));
    });
  });
  return [...lines.values()];
}

// Show where a tensor is taken or made, in the function that is shown if it is there.
function goTo(v) {
  for (const order of [state.function, ...plan.functions.keys()]) {
    const at = plan.functions[order].ops.findIndex(op => op[2].includes(v) || op[4].includes(v));
    if (at >= 0) {
      openTo(order, at);
      break;
    }
  }
  select({tensor: v});
}

function search(text) {
  const lines = found(text);
  $("found").hidden = !text.trim();
  $("found").replaceChildren(...lines.map(({name, more, act, count, folded}, i) => {
    const line = element("li", {role: "option"}, count > 1 ? folded : name, element("small", {}, (count > 1 ? `× ${count} ` : "") + more));
    line.addEventListener("click", () => { $("found").hidden = true; act(); });
    if (!i) line.classList.add("at");
    return line;
  }));
  if (text.trim() && !lines.length) $("found").append(element("li", {}, "nothing has that name"));
}

// Up and down choose a line, Enter takes it, Esc leaves.
function searchKeys(event) {
  const lines = [...$("found").children], at = lines.findIndex(line => line.classList.contains("at"));
  const next = event.key === "ArrowDown" ? at + 1 : event.key === "ArrowUp" ? at - 1 : -1;
  if (event.key === "Enter" && at >= 0) lines[at].click();
  if (event.key === "Enter" || event.key === "Escape") { $("found").hidden = true; $("search").blur(); }
  if (next < 0 || next >= lines.length) return;
  event.preventDefault();
  lines.forEach((line, i) => line.classList.toggle("at", i === next));
  lines[next].scrollIntoView({block: "nearest"});
}
