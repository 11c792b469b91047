// A terminal by xterm.js that keeps to the policy of our pages: no style in its markup.

import { FitAddon } from "./xterm-fit/lib/addon-fit.mjs";
import { Terminal } from "./xterm/lib/xterm.mjs";

// A style element that is none: what is written into it becomes a style sheet of the document.
function sheet() {
  const rules = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, rules];
  const stand = document.createElement("template");
  const drop = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((it) => it !== rules);
    Element.prototype.remove.call(stand);
  };
  return Object.defineProperties(stand, {
    textContent: { set: (text) => rules.replaceSync(text) },
    remove: { value: drop },
  });
}

// An element whose style may be set as an attribute.
function element(name) {
  const made = document.createElement(name);
  made.setAttribute = (key, value) => {
    if (key === "style") {
      made.style.cssText = value;
    } else {
      Element.prototype.setAttribute.call(made, key, value);
    }
  };
  return made;
}

// The document as xterm.js sees it.
const guarded = new Proxy(document, {
  get(target, name) {
    if (name === "createElement") {
      return (tag) => (tag === "style" ? sheet() : element(tag));
    }
    const value = Reflect.get(target, name, target);
    return typeof value === "function" ? value.bind(target) : value;
  },
  set: (target, name, value) => Reflect.set(target, name, value, target),
});

// A terminal in *place*, as large as that is unless its size is given.
export function openTerminal(place, { size = null, ...options } = {}) {
  const terminal = new Terminal({
    documentOverride: guarded,
    fontFamily: "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace",
    fontSize: 15,
    scrollback: 5000,
    ...options,
    ...(size ? { cols: size[0], rows: size[1] } : {}),
  });
  const box = document.createElement("div");
  box.className = "terminal";
  place.append(box);
  terminal.open(box);
  let watch = null;
  if (!size) {
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    watch = new ResizeObserver(() => fit.fit());
    watch.observe(box);
    fit.fit();
  }
  const close = () => {
    watch?.disconnect();
    terminal.dispose();
    box.remove();
  };
  return { terminal, box, close };
}
