// A serial line, or bytes of any kind, in a terminal.

import { sequence } from "./keys.js";
import { openTerminal } from "./terminal.js";

export class Viewer {
  // It may be read when its console has ended.
  lasts = true;
  tools = { fit: false, clipboard: false, type: true, power: false };

  constructor(screen, { connect, on, viewOnly }) {
    this.viewOnly = viewOnly;
    this.opened = openTerminal(screen, { disableStdin: viewOnly, cursorBlink: !viewOnly });
    this.control = false;
    const { terminal } = this.opened;
    this.socket = connect();
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", () => on.up());
    this.socket.addEventListener("message", ({ data }) => terminal.write(new Uint8Array(data)));
    terminal.onData((text) => this.send(new TextEncoder().encode(this.controlled(text))));
    terminal.onBinary((text) => this.send(Uint8Array.from(text, (it) => it.charCodeAt(0))));
    terminal.onTitleChange((title) => on.named(title));
  }

  // What a letter means while Ctrl is held by its button.
  controlled(text) {
    const held = this.control && text.length === 1 && text >= "@" && text <= "~";
    return held ? String.fromCharCode(text.toUpperCase().charCodeAt(0) & 0x1f) : text;
  }

  send(bytes) {
    if (!this.viewOnly && this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(bytes);
    }
  }

  focus() {
    this.opened.terminal.focus();
  }

  release() {
    this.control = false;
  }

  press(code, down) {
    if (code === "ControlLeft") {
      this.control = down ?? false;
    } else if (down !== false) {
      this.send(new TextEncoder().encode(sequence(code)));
    }
  }

  type(text) {
    this.opened.terminal.paste(text);
  }

  fit() {}

  close(keep = false) {
    this.socket.close();
    if (keep) {
      this.opened.terminal.options.disableStdin = true;
    } else {
      this.opened.close();
    }
  }
}
