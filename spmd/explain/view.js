// Zoom and pan of the drawing: dragging and the wheel move it, the wheel with Ctrl zooms, as in Netron.
const LEAST = 0.05, MOST = 4, READABLE = 0.4;
const view = {x: 0, y: 0, scale: 1, moved: false};

function applyView() {
  const inner = document.getElementById("view");
  if (inner) inner.setAttribute("transform", `translate(${view.x},${view.y}) scale(${view.scale})`);
  document.getElementById("scale").textContent = `${Math.round(100 * view.scale)}%`;
}

function canvasSize() {
  const {clientWidth, clientHeight} = document.getElementById("canvas");
  return [clientWidth || 800, clientHeight || 600];
}

function zoom(factor, x, y) {
  const [wide, tall] = canvasSize(), at = [x === undefined ? wide / 2 : x, y === undefined ? tall / 2 : y];
  const next = Math.max(LEAST, Math.min(MOST, view.scale * factor)), by = next / view.scale;
  Object.assign(view, {x: at[0] - by * (at[0] - view.x), y: at[1] - by * (at[1] - view.y), scale: next, moved: true});
  applyView();
}

function pan(dx, dy) {
  Object.assign(view, {x: view.x + dx, y: view.y + dy, moved: true});
  applyView();
}

// All of it where that can be read, else its beginning.
function fit() {
  const {root, leaves} = shown, [wide, tall] = canvasSize();
  const whole = Math.min((wide - 16) / root.width, (tall - 16) / root.height, 1.15), scale = Math.max(whole, READABLE);
  const first = leaves[0], middle = whole >= READABLE || !first ? root.width / 2 : first.left + first.width / 2;
  Object.assign(view, {scale, x: wide / 2 - scale * middle, y: whole >= READABLE ? Math.max(8, (tall - scale * root.height) / 2) : 8, moved: false});
  applyView();
}

// Bring a node into sight, its top where it is larger than the canvas.
function reveal(node) {
  const [wide, tall] = canvasSize(), s = view.scale, edge = 30;
  const left = view.x + s * node.left, top = view.y + s * node.top, w = s * node.width, h = s * node.height;
  const inside = left >= 0 && top >= 0 && left + w <= wide && top + h <= tall;
  if (inside) return;
  Object.assign(view, {x: wide / 2 - s * (node.left + node.width / 2), y: (h < tall - 2 * edge ? (tall - h) / 2 : edge) - s * node.top, moved: true});
  applyView();
}

function watchCanvas() {
  const canvas = document.getElementById("canvas");
  let from = null;
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    const box = canvas.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) zoom(Math.exp(-event.deltaY * 0.004), event.clientX - box.left, event.clientY - box.top);
    else event.shiftKey && !event.deltaX ? pan(-event.deltaY, 0) : pan(-event.deltaX, -event.deltaY);
  }, {passive: false});
  canvas.addEventListener("pointerdown", event => { if (event.button === 0) from = {x: event.clientX, y: event.clientY, dragged: false}; });
  addEventListener("pointermove", event => {
    if (!from) return;
    const dx = event.clientX - from.x, dy = event.clientY - from.y;
    if (!from.dragged && Math.hypot(dx, dy) < 4) return;
    pan(dx, dy);
    from = {x: event.clientX, y: event.clientY, dragged: true};
    canvas.classList.add("dragged");
  });
  addEventListener("pointerup", () => {
    setTimeout(() => canvas.classList.remove("dragged"));
    from = null;
  });
  canvas.addEventListener("click", event => canvas.classList.contains("dragged") && event.stopPropagation(), {capture: true});
  if (window.ResizeObserver) new ResizeObserver(() => { if (!view.moved) fit(); }).observe(canvas);
}
