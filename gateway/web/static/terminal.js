// A terminal by xterm.js that keeps to the policy of our pages: no style in its markup.

import { FitAddon } from "./xterm-fit/lib/addon-fit.mjs";
import { Terminal } from "./xterm/lib/xterm.mjs";

// xterm.js makes style elements, and sets styles as attributes, both of which the policy forbids. It asks the
// document for all its elements, and gets some that do the same by other means.
const create = document.createElement.bind(document);
document.createElement = (name, options) => {
  const made = { style: sheet, span }[name]?.();
  return made ?? create(name, options);
};

// A style element that is none: what is written into it becomes a style sheet of the document.
function sheet() {
  const rules = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, rules];
  const stand = create("template");
  const remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((it) => it !== rules);
    Element.prototype.remove.call(stand);
  };
  return Object.defineProperties(stand, {
    textContent: { set: (text) => rules.replaceSync(text) },
    remove: { value: remove },
  });
}

function span() {
  const made = create("span");
  made.setAttribute = (name, value) => {
    if (name === "style") {
      made.style.cssText = value;
    } else {
      Element.prototype.setAttribute.call(made, name, value);
    }
  };
  return made;
}

// A terminal in *place*, as large as that is unless its size is given.
export function openTerminal(place, { size = null, ...options } = {}) {
  const terminal = new Terminal({
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
