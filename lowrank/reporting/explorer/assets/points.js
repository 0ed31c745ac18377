// The points of the plot under mouse, finger and keyboard.

const NEAR = 28;

function attach(chart, curves, view) {
  const marks = new Map([...chart.querySelectorAll(".point")].map((one) => [one.dataset.id, one]));
  const all = curves.flatMap((curve, row) => curve.points.map(({ point, at }, column) => ({
    point, at, row, column, place: curve.places[column], element: marks.get(point.id),
  })));
  const selected = all.find(({ point }) => view.sel !== null && point.indices.includes(view.sel));
  setStop(chart, (selected ?? all[0]).element);
  const nearest = (event) => {
    const frame = chart.getBoundingClientRect();
    const ratio = chart.viewBox.baseVal.width / frame.width;
    const [x, y] = [(event.clientX - frame.left) * ratio, (event.clientY - frame.top) * ratio];
    const distance = ({ place }) => Math.hypot(place[0] - x, place[1] - y);
    const best = all.reduce((a, b) => (distance(b) < distance(a) ? b : a));
    return distance(best) <= NEAR ? best : null;
  };
  chart.addEventListener("pointermove", (event) => show(chart, nearest(event), view));
  chart.addEventListener("pointerleave", () => show(chart, null, view));
  chart.addEventListener("click", (event) => {
    const found = nearest(event);
    if (found) choose(found.point, event.shiftKey);
  });
  chart.addEventListener("focusin", (event) => show(chart, all.find(({ element }) => element === event.target) ?? null, view));
  chart.addEventListener("focusout", () => show(chart, null, view));
  chart.addEventListener("keydown", (event) => key(event, chart, all, curves));
}

function setStop(chart, element) {
  chart.querySelectorAll("[tabindex='0']").forEach((one) => one.setAttribute("tabindex", -1));
  element.setAttribute("tabindex", 0);
}

function choose(point, pin) {
  const name = point.record.key;
  update(pin ? { vs: name } : { sel: name });
  byId("status").textContent = `${pin ? "Pinned" : "Selected"}: ${nameOf(point)}`;
}

function key(event, chart, all, curves) {
  const here = all.find(({ element }) => element === event.target);
  if (!here) return;
  const at = (row, column) => all.find((one) => one.row === row && one.column === column);
  const beside = (step) => {
    const row = (here.row + step + curves.length) % curves.length;
    const others = all.filter((one) => one.row === row);
    return others.reduce((a, b) => (Math.abs(b.place[0] - here.place[0]) < Math.abs(a.place[0] - here.place[0]) ? b : a));
  };
  const moves = {
    ArrowRight: () => at(here.row, here.column + 1), ArrowLeft: () => at(here.row, here.column - 1),
    ArrowDown: () => beside(1), ArrowUp: () => beside(-1), Home: () => all[0], End: () => all[all.length - 1],
  };
  if (event.key in moves) {
    const next = moves[event.key]();
    if (next) {
      setStop(chart, next.element);
      next.element.focus();
    }
  } else if (event.key === "Enter" || event.key === " ") choose(here.point, false);
  else if (event.key === "p") choose(here.point, true);
  else if (event.key === "Escape") show(chart, null, null);
  else return;
  event.preventDefault();
}

// The text beside a point, with its method set off from the others; `null` takes it away.
function show(chart, found, view) {
  const tip = byId("tip");
  chart.classList.toggle("dimmed", found !== null);
  chart.querySelectorAll(".lit").forEach((one) => one.classList.remove("lit"));
  tip.hidden = found === null;
  if (!found) return;
  const { method } = found.point.record;
  chart.querySelectorAll("[data-method]").forEach((one) => one.classList.toggle("lit", one.dataset.method === method));
  found.element.classList.add("lit");
  tip.replaceChildren(...tipLines(found, view));
  const box = found.element.querySelector(".marker").getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = box.right + 10 + size.width > innerWidth - 8 ? box.left - size.width - 10 : box.right + 10;
  const top = Math.min(Math.max(8, box.top - size.height / 2), innerHeight - size.height - 8);
  tip.style.setProperty("left", `${Math.max(8, left)}px`);
  tip.style.setProperty("top", `${top}px`);
}

function tipLines({ point, at }, view) {
  const { method, family, norm, level } = point.record;
  const own = point.own.length < point.seeds ? `, ${point.own.length} of them with numbers of their own` : "";
  const rows = [[view.y, at[1]], [view.x, at[0]]].map(([axis, value]) => h("div", {},
    h("span", {}, wordsOf(axis)), h("b", {}, withSpread(axis, value, spreadOf(point, axis.name, view.bars)))));
  return [
    h("strong", { style: { color: point.part.looks.get(method).colour } }, shortened(method, 60)),
    h("p", {}, `${family}${level === null ? "" : `, level ${levelText(level)}`}, norm: ${shortened(norm, 40)}`),
    ...rows,
    h("p", {}, point.seeds > 1 ? `${point.seeds} seeds${own}` : `seed ${point.record.seed}`),
  ];
}
