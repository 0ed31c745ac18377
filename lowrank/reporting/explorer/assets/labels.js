// Labels of curves beside the plot, moved apart where they would lie on each other.

const LINE = 13;

// Places for labels of height `LINE` near those wanted, in their order and within the limits; null
// if there is no room for all.
function spreadOut(wanted, top, bottom) {
  if (wanted.length * LINE > bottom - top) return null;
  const order = wanted.map((_, index) => index).sort((a, b) => wanted[a] - wanted[b]);
  const places = wanted.slice();
  let least = top;
  order.forEach((index) => {
    places[index] = Math.max(places[index], least);
    least = places[index] + LINE;
  });
  let most = bottom;
  order.reverse().forEach((index) => {
    places[index] = Math.min(places[index], most);
    most = places[index] - LINE;
  });
  return places;
}

// Names at the right of the plot, each with a thin line to the end of its curve; null if there is no
// room. `dense` is the height of the dense model and what stands there.
function curveLabels(curves, dense, { right, top, bottom }) {
  const ends = curves.map(({ places }) => places[places.length - 1]);
  if (dense) ends.push([right, dense.y]);
  const heights = spreadOut(ends.map(([, y]) => y), top, bottom);
  if (!heights) return null;
  const own = dense ? s("text", { class: "own", x: right + 11, y: heights[heights.length - 1], dy: "0.35em" }, dense.said) : null;
  return [s("g", { class: "label lit" }, own), curves.map(({ method, look }, index) => {
    const [x, y] = ends[index];
    return s("g", { class: "label", "data-method": method },
      s("path", { class: "leader", d: `M${x + 6} ${y}L${right - 4} ${y}L${right + 8} ${heights[index]}`, stroke: look.colour }),
      s("text", { x: right + 11, y: heights[index], dy: "0.35em", fill: look.colour }, shortened(method, 22),
        s("title", {}, method)));
  })];
}

// The same names in a row below, where there is no room at the side.
function legend(curves, dense) {
  const own = { colour: "var(--dense)", dash: "1 3", marker: MARKERS[3] };
  return h("ul", { class: "legend" }, dense ? h("li", {}, swatch(own), dense.said) : null,
    curves.map(({ method, look }) => h("li", { title: method }, swatch(look), shortened(method, 28))));
}
