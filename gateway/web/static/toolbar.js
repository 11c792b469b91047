// The buttons of the console page: keys, clipboard, size, full screen.

const byId = (id) => document.getElementById(id);
const MODIFIERS = { ControlLeft: "Ctrl", AltLeft: "Alt", MetaLeft: "Win" };
const FUNCTION = Array.from({ length: 12 }, (_, at) => `F${at + 1}`);
const PLAIN = { Escape: "Esc", Tab: "Tab" };
// Characters that are typed at once, at most.
const LONGEST = 4096;
// What stays in the field that calls a phone's keyboard up, so that there is something to delete.
const FILLER = "\u200b".repeat(8);

export class Toolbar {
  fits = true;

  constructor(viewer, reconnect) {
    this.viewer = viewer;
    this.held = new Map();
    this.touch = matchMedia("(pointer: coarse)").matches;
    byId("reconnect").addEventListener("click", reconnect);
    byId("menu").addEventListener("click", () => this.menu(!byId("tools").classList.contains("open")));
    byId("ctrl-alt-del").addEventListener("click", () => this.combination(["ControlLeft", "AltLeft", "Delete"]));
    byId("fit").addEventListener("click", () => this.fit(!this.fits));
    byId("full").addEventListener("click", () => this.full());
    byId("typing-open").addEventListener("click", () => byId("typing").focus());
    byId("paste").addEventListener("click", () => this.paste());
    byId("type").addEventListener("click", () => this.type());
    for (const name of ["keys", "clipboard"]) {
      byId(`${name}-open`).addEventListener("click", () => this.panel(name, byId(name).hidden));
    }
    document.addEventListener("fullscreenchange", () => {
      byId("full").setAttribute("aria-pressed", String(document.fullscreenElement !== null));
    });
    // Some phones have no full screen.
    byId("full").hidden = !document.fullscreenEnabled;
    this.typing();
    // Before the console sees them.
    window.addEventListener("keydown", (event) => this.shortcut(event), { capture: true });
  }

  // Show what makes sense for a viewer; null while there is no console.
  show(viewer, { kind = "", op = "" } = {}) {
    const able = viewer !== null && op === "control";
    const tools = viewer?.tools ?? {};
    this.release();
    byId("ctrl-alt-del").hidden = !tools.power;
    byId("fit").hidden = !tools.fit;
    byId("typing-open").hidden = byId("typing").hidden = !(able && this.touch);
    byId("paste").hidden = !tools.clipboard;
    for (const name of ["ctrl-alt-del", "keys-open", "paste", "type"]) {
      byId(name).disabled = !able;
    }
    // Who only looks may still read what the console has copied.
    byId("clipboard-open").disabled = !able && !(viewer && tools.clipboard);
    if (!able) {
      this.panel(null);
    }
    this.keys(kind === "serial" || kind === "raw");
  }

  // -- panels ------------------------------------------------------------------------------------

  menu(open) {
    byId("tools").classList.toggle("open", open);
    byId("menu").setAttribute("aria-expanded", String(open));
    if (!open) {
      this.panel(null);
    }
  }

  // Open one panel, or with null none.
  panel(wanted, open = true) {
    for (const name of ["keys", "clipboard"]) {
      const seen = open && name === wanted;
      byId(name).hidden = !seen;
      byId(`${name}-open`).setAttribute("aria-expanded", String(seen));
    }
    if (wanted !== "keys" || !open) {
      this.release();
    }
  }

  shortcut(event) {
    if (event.key === "Home" && event.ctrlKey && event.altKey) {
      event.preventDefault();
      event.stopImmediatePropagation();
      this.viewer()?.release();
      const narrow = getComputedStyle(byId("menu")).display !== "none";
      byId(narrow ? "menu" : "tools").focus();
      if (!narrow) {
        byId("tools").querySelector("button:not([hidden], :disabled)")?.focus();
      }
    } else if (event.key === "Escape" && byId("bar").contains(event.target) && event.target.id !== "typing") {
      event.preventDefault();
      const name = ["keys", "clipboard"].find((it) => !byId(it).hidden);
      this.panel(null);
      if (name && byId(name).contains(event.target)) {
        byId(`${name}-open`).focus();
      } else {
        this.menu(false);
        this.viewer()?.focus();
      }
    }
  }

  // -- keys --------------------------------------------------------------------------------------

  button(text, pressed) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", () => pressed(made));
    return made;
  }

  keys(terminal) {
    const names = terminal ? { ControlLeft: "Ctrl" } : MODIFIERS;
    const hold = Object.entries(names).map(([code, name]) => {
      const made = this.button(name, () => this.hold(code, made));
      made.setAttribute("aria-pressed", "false");
      return made;
    });
    const send = [...Object.entries(PLAIN), ...FUNCTION.map((it) => [it, it])].map(([code, name]) =>
      this.button(name, () => this.viewer()?.press(code)),
    );
    byId("keys").replaceChildren(...hold, ...send);
  }

  // Hold a key down until its button is pressed again, or the panel is closed.
  hold(code, button) {
    const down = !this.held.has(code);
    this.viewer()?.press(code, down);
    button.setAttribute("aria-pressed", String(down));
    if (down) {
      this.held.set(code, button);
    } else {
      this.held.delete(code);
    }
  }

  release() {
    for (const [code, button] of [...this.held]) {
      this.hold(code, button);
    }
  }

  combination(codes) {
    const viewer = this.viewer();
    codes.forEach((code) => viewer?.press(code, true));
    codes.toReversed().forEach((code) => viewer?.press(code, false));
    viewer?.focus();
  }

  // The keyboard of a phone writes into a field; what it does there is done in the console.
  typing() {
    const field = byId("typing");
    const reset = () => {
      field.value = FILLER;
      field.setSelectionRange(FILLER.length, FILLER.length);
    };
    field.addEventListener("focus", reset);
    field.addEventListener("keydown", (event) => {
      if (["Enter", "Tab", "Escape"].includes(event.key)) {
        event.preventDefault();
        this.viewer()?.press(event.key);
      }
    });
    field.addEventListener("input", (event) => {
      if (event.isComposing) {
        return;
      }
      const text = field.value.replaceAll("\u200b", "");
      const missing = FILLER.length - (field.value.length - text.length);
      for (let at = 0; at < missing; at += 1) {
        this.viewer()?.press("Backspace");
      }
      if (text) {
        this.viewer()?.type(text);
      }
      reset();
    });
    field.addEventListener("compositionend", () => {
      const text = field.value.replaceAll("\u200b", "");
      if (text) {
        this.viewer()?.type(text);
      }
      reset();
    });
  }

  // -- clipboard ---------------------------------------------------------------------------------

  copied(text) {
    byId("text").value = text;
    byId("copied").textContent = "The console has copied this.";
  }

  paste() {
    this.viewer()?.paste(byId("text").value);
    byId("copied").textContent = "It is on the console's clipboard.";
  }

  type() {
    const text = byId("text").value;
    this.viewer()?.type(text.slice(0, LONGEST));
    byId("copied").textContent = text.length > LONGEST ? `The first ${LONGEST} characters were typed.` : "Typed.";
  }

  // -- size --------------------------------------------------------------------------------------

  fit(whole) {
    this.fits = whole;
    byId("fit").setAttribute("aria-pressed", String(whole));
    this.viewer()?.fit(whole);
  }

  async full() {
    if (document.fullscreenElement) {
      await document.exitFullscreen();
    } else {
      await document.documentElement.requestFullscreen();
      // Where that can be had, all keys go to the console; Escape that is held down leaves.
      await navigator.keyboard?.lock?.().catch(() => {});
    }
    this.viewer()?.focus();
  }
}
