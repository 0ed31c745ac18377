// Elements. Texts are only ever set as text, never read as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.entries(value).forEach(([k, v]) => element.style.setProperty(k, v));
    else element.setAttribute(name, value === true ? "" : `${value}`);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function byId(id) {
  return document.getElementById(id);
}

// Markers by the place of a method within its family; each of about the same area, around (0, 0).
const MARKERS = [
  "M4 0A4 4 0 1 1-4 0A4 4 0 1 1 4 0Z",
  "M-3.5-3.5H3.5V3.5H-3.5Z",
  "M0-4.8 4.6 3.6H-4.6Z",
  "M0-5 5 0 0 5-5 0Z",
  "M0 4.8-4.6-3.6H4.6Z",
  "M-1.5-4.5H1.5V-1.5H4.5V1.5H1.5V4.5H-1.5V1.5H-4.5V-1.5H-1.5Z",
  "M-4.8 0 3.6-4.6V4.6Z",
  "M4.8 0-3.6-4.6V4.6Z",
  "M0-5.2 1.5-1.7 5-1.6 2.3.7 3.2 4.2 0 2.2-3.2 4.2-2.3.7-5-1.6-1.5-1.7Z",
];
const DASHES = ["", "6 2", "2 2", "8 2 2 2", "4 3", "1 2"];

function swatch(look) {
  return s("svg", { class: "swatch", viewBox: "-11 -6 22 12", width: 22, height: 12, "aria-hidden": "true" },
    s("line", { x1: -11, x2: 11, stroke: look.colour, "stroke-width": 1.5, "stroke-dasharray": look.dash }),
    s("path", { d: look.marker, fill: look.colour }));
}
