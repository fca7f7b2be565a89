// Tabs, search, details, memory, weights.
const state = {function: 0, chosen: []};
const $ = id => document.getElementById(id);

function show(index, chosen) {
  state.function = index;
  const f = plan.functions[index];
  state.chosen = chosen || f.repeats.map(() => 0);
  [...$("tabs").children].forEach((tab, i) => tab.classList.toggle("on", i === index));
  $("folds").replaceChildren(...f.repeats.map(([start, period, count], i) => {
    const input = element("input", {type: "number", min: 1, max: count, value: (state.chosen[i] || 0) + 1});
    input.addEventListener("change", () => {
      const next = [...state.chosen];
      next[i] = Math.max(0, Math.min(count - 1, Number(input.value) - 1));
      show(state.function, next);
    });
    return element("label", {}, `${count} equal parts of ${period} operators, drawn is number `, input);
  }));
  $("canvas").replaceChildren(drawGraph(f, state.chosen, select));
  drawLegend();
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

function select({tensor, op, collective}) {
  const f = plan.functions[state.function], made = [];
  document.querySelectorAll("#canvas .on").forEach(e => e.classList.remove("on"));
  let moved = [];
  if (tensor !== undefined) {
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
  if (!found) return;
  found.classList.add("on");
  found.scrollIntoView({block: "center", inline: "center"});
}

// Show the function and the layer in which an operator stands.
function go(index, at, what) {
  const chosen = plan.functions[index].repeats.map(([start, period, count]) => at >= start && at < start + period * count ? Math.floor((at - start) / period) : 0);
  show(index, chosen);
  select(what);
}

function search(text) {
  const wanted = text.trim().toLowerCase(), items = [];
  if (wanted) {
    plan.functions.forEach((f, i) => f.ops.forEach((op, at) => {
      if (items.length < 60 && `${plan.ops[op[0]]} ${op[1]}`.toLowerCase().includes(wanted)) items.push([`${op[1]}`, `${plan.ops[op[0]]} in ${f.name}`, () => go(i, at, {op: at})]);
    }));
    const hits = plan.tensors.flatMap((t, v) => t[0].toLowerCase().includes(wanted) ? [v] : []).slice(0, 40);
    items.unshift(...hits.map(v => [plan.tensors[v][0], plan.shardings[plan.tensors[v][2]][0], () => {
      for (const order of [state.function, ...plan.functions.keys()]) {
        const at = plan.functions[order].ops.findIndex(op => op[2].includes(v) || op[4].includes(v));
        if (at >= 0) return go(order, at, {tensor: v});
      }
      select({tensor: v});
    }]));
  }
  $("found").hidden = !wanted;
  $("found").replaceChildren(...items.slice(0, 60).map(([name, more, act]) => element("li", {onclick: () => { $("found").hidden = true; act(); }}, name, element("small", {}, more))));
  if (wanted && !items.length) $("found").append(element("li", {}, "nothing has that name"));
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
  if (plan.functions.length) show(0);
  document.body.dataset.ready = "yes";
}
start();
