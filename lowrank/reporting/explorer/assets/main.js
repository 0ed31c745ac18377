// The start of the page, and what is drawn when the state changes.

const THEMES = { "": "System", dark: "Dark", light: "Light" };

function render() {
  const view = current();
  const points = shownPoints(view);
  document.documentElement.dataset.theme = state.theme in THEMES ? state.theme : "";
  byId("subject").textContent = view.part.title;
  drawTools();
  drawFilters(view);
  drawPlot(view, points);
  drawPoints(view, points);
  drawDetail(view);
}

function drawTools() {
  const place = byId("tools");
  const chosen = state.theme in THEMES ? state.theme : "";
  const buttons = Object.entries(THEMES).map(([theme, title]) => h("button", { type: "button", "aria-pressed": `${theme === chosen}`, onclick: () => update({ theme }) }, title));
  replaceTable(place, () => [h("div", { class: "seeds", role: "group", "aria-label": "Colours" }, buttons)]);
}

async function start() {
  try {
    page.parts = await readData();
  } catch (error) {
    byId("failure").hidden = false;
    byId("failure").textContent = `The records of this page could not be read (${error}). It needs a browser with DecompressionStream: Chrome 103, Firefox 113, Safari 16.4 or later.`;
    return;
  }
  page.render = render;
  // The address holds the view, so no link of the page may change it.
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("points").focus();
  });
  readHash();
  if (innerWidth < 760) byId("controls").open = false;
  render();
  addEventListener("hashchange", () => { readHash(); render(); });
  let width = byId("plot").clientWidth;
  new ResizeObserver(() => requestAnimationFrame(() => {
    if (byId("plot").clientWidth === width) return;
    width = byId("plot").clientWidth;
    drawPlot(current(), shownPoints(current()));
  })).observe(byId("plot"));
  document.documentElement.dataset.ready = "true";
}

start();
