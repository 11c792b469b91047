// A VNC console by noVNC. Every viewer offers what this one does, as far as its kind of console can.

import RFB from "./novnc/core/rfb.js";

import { keysym, keysymOf } from "./keys.js";
import { sentence } from "./words.js";

const REFUSED = "The console did not let us in";
const refused = (reason = "") => (sentence(reason) ? `${REFUSED}: ${sentence(reason)}` : `${REFUSED}.`);

export class Viewer {
  // Of the tools of the page: what makes sense here.
  tools = { fit: true, clipboard: true, type: true, power: true };

  // screen: an element to fill; socket: made by the page, which also hears how it is closed;
  // on: what the page wants to know, see console.js.
  constructor(screen, { connect, on, viewOnly, fit }) {
    this.on = on;
    this.rfb = new RFB(screen, connect(), { shared: true });
    this.rfb.viewOnly = viewOnly;
    this.rfb.background = "transparent";
    this.fit(fit);
    const hear = (name, tell) => this.rfb.addEventListener(name, tell);
    this.open = true;
    hear("connect", () => on.up());
    hear("disconnect", () => {
      this.open = false;
    });
    hear("desktopname", ({ detail }) => on.named(detail.name));
    hear("clipboard", ({ detail }) => on.copied(detail.text));
    hear("credentialsrequired", ({ detail }) => on.asked(detail.types));
    hear("securityfailure", ({ detail }) => on.failed(refused(detail.reason)));
    this.canvas = screen.querySelector("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("aria-label", "Screen of the console: keys go there");
  }

  login(credentials) {
    this.rfb.sendCredentials(credentials);
  }

  focus() {
    this.rfb.focus({ preventScroll: true });
  }

  // Nothing is held down any more: the page has taken the focus away.
  release() {
    window.dispatchEvent(new Event("blur"));
  }

  press(code, down) {
    this.rfb.sendKey(keysym(code), code, down);
  }

  type(text) {
    for (const character of text) {
      this.rfb.sendKey(keysymOf(character), undefined);
    }
  }

  paste(text) {
    this.rfb.clipboardPasteFrom(text);
  }

  fit(whole) {
    this.rfb.scaleViewport = whole;
  }

  close() {
    if (this.open) {
      this.rfb.disconnect();
    }
  }
}
