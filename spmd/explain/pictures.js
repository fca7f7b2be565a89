"use strict";
// Colours of shardings, and pictures of tensors as the grid of their shards.
const plan = JSON.parse(document.getElementById("data").textContent);

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) key === "onclick" ? made.addEventListener("click", value) : made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const hover = text => drawn("title", {}, text);

function bytes(count) {
  for (const unit of ["B", "kB", "MB"]) {
    if (count < 1000) return (unit === "B" ? count.toFixed(0) : count.toFixed(1)) + " " + unit;
    count /= 1000;
  }
  return count.toFixed(2) + " GB";
}

const micro = us => us < 1000 ? us.toFixed(1) + " us" : us < 1e6 ? (us / 1000).toFixed(1) + " ms" : (us / 1e6).toFixed(2) + " s";

// Shardings that differ in their segments only have one colour.
const WHOLE = "#b4bbc6";
const PALETTE = ["#3b74d8", "#2f9e68", "#d58a1f", "#8a56c9", "#c9487b", "#1f9fb4", "#7d8f1f", "#a8623a", "#5563c1", "#57799a"];
const legend = new Map();

function kind(index) {
  return plan.shardings[index][0].replace(/:[^,\]]*/g, "");
}

function colour(index) {
  if (index < 0) return WHOLE;
  const [, dims, partial] = plan.shardings[index];
  if (!partial.length && dims.every(d => d === null)) return WHOLE;
  const key = kind(index);
  if (!legend.has(key)) legend.set(key, PALETTE[legend.size] || `hsl(${(legend.size * 137) % 360},50%,45%)`);
  return legend.get(key);
}

// The pieces of one dimension: [fraction of the drawn length, index of the worker along its axes].
function pieces(dim, size) {
  if (!dim) return [[1, 0]];
  const [, workers, segments] = dim, made = [];
  for (const [segment, local] of segments) {
    for (let r = 0; r < workers; r++) {
      const held = Math.max(0, Math.min(local, segment - r * local));
      if (held > 0) made.push([held / Math.max(size, 1), r]);
    }
  }
  return made.length ? made : [[1, 0]];
}

// A tensor as an SVG group in a box of the given size; each worker has a hue of its own.
function picture(tensor, width, height) {
  const sizes = plan.tensors[tensor][7], [text, dims, partial] = plan.shardings[plan.tensors[tensor][2]];
  const order = sizes.map((_, i) => i).sort((a, b) => (dims[b] !== null) - (dims[a] !== null) || sizes[b] - sizes[a] || a - b);
  const shown = order.slice(0, 2).sort((a, b) => a - b);
  const [row, column] = shown.length === 2 ? shown : [-1, shown.length ? shown[0] : -1];
  const at = i => i < 0 ? [[1, 0]] : pieces(dims[i], sizes[i]);
  const rows = at(row), columns = at(column), across = column >= 0 && dims[column] ? dims[column][1] : 1;
  const total = across * (row >= 0 && dims[row] ? dims[row][1] : 1);
  const ratio = row < 0 ? 4 : Math.min(4, Math.max(0.25, sizes[column] / Math.max(sizes[row], 1)));
  const w = ratio > width / height ? width : height * ratio, h = w / ratio;
  const made = drawn("g", {class: "picture", transform: `translate(${(width - w) / 2},${(height - h) / 2})`}, hover(text));
  let y = 0;
  for (const [tall, r] of rows) {
    let x = 0;
    for (const [wide, c] of columns) {
      const worker = r * across + c;
      const fill = total === 1 ? WHOLE : `hsl(${Math.round(360 * worker / total) + 210},58%,${worker % 2 ? 66 : 56}%)`;
      made.append(drawn("rect", {x: x * w, y: y * h, width: wide * w, height: tall * h, fill, stroke: "#fff", "stroke-width": 0.4}));
      x += wide;
    }
    y += tall;
  }
  if (partial.length) made.append(drawn("text", {x: 3, y: 11}, "Σ"));
  made.append(drawn("rect", {class: "frame", width: w, height: h, fill: "none", stroke: "#5b6675", "stroke-width": 0.8}));
  return made;
}

const framed = (tensor, width, height) => drawn("svg", {width, height}, picture(tensor, width, height));
