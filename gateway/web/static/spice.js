// A SPICE console by spice-html5: a websocket for each of its channels, all under one ticket.

import { Constants } from "./spice/src/enums.js";
import { SpiceMainConn } from "./spice/src/main.js";
import { SpiceMiniData, SpiceMsgcKeyDown } from "./spice/src/spicemsg.js";
import { RSAKey } from "./spice/src/thirdparty/rsa.js";

import { placesOf, scancode } from "./keys.js";

const POLL = 100;
// Keys that arrive faster than a guest reads them are lost.
const PAUSE = 8;

let connect = null;
let sockets = 0;
const Native = globalThis.WebSocket;
// spice-html5 makes its websockets by itself; the page makes them instead, with the ticket, and hears of the
// first one, which is that of the main channel. The others come and go.
globalThis.WebSocket = new Proxy(Native, {
  construct: (target, [url]) => (sockets++ === 0 ? connect() : connect({ aside: true, url })),
});

// It loses the zeroes at the beginning of an encrypted password, and with them one in 256 of its channels.
const encrypt = RSAKey.prototype.doPublic;
RSAKey.prototype.doPublic = function doPublic(number) {
  const digits = encrypt.call(this, number).toString(16);
  return { toString: () => digits.padStart(2 * Math.ceil(this.n.bitLength() / 8), "0") };
};

export class Viewer {
  tools = { fit: true, clipboard: false, type: true, power: true };

  constructor(screen, { connect: make, address, on, viewOnly, fit, credentials = {} }) {
    this.screen = screen;
    this.viewOnly = viewOnly;
    this.held = new Set();
    this.whole = fit;
    [connect, sockets] = [make, 0];
    screen.id = "screen";
    this.main = new SpiceMainConn({
      uri: address,
      screen_id: screen.id,
      password: credentials.password ?? "",
      onsuccess: () => {},
      onerror: (error) => {
        if (/permission denied|bad password/i.test(error.message ?? "")) {
          on.asked(["password"], credentials.password ? "That was not its password." : "");
        }
      },
    });
    this.stop = new AbortController();
    const { signal } = this.stop;
    const key = (event) => this.key(event);
    for (const name of ["keydown", "keyup"]) {
      screen.addEventListener(name, key, { capture: true, signal });
    }
    screen.addEventListener("focusout", () => this.release(), { signal });
    screen.addEventListener("mousedown", () => this.focus(), { capture: true, signal });
    this.watch = new ResizeObserver(() => this.fit(this.whole));
    this.watch.observe(screen.parentElement);
    // The surface of the display comes with no event.
    this.timer = setInterval(() => this.look(on), POLL);
  }

  look(on) {
    const canvas = this.screen.querySelector("canvas");
    if (canvas && canvas !== this.canvas) {
      this.canvas = canvas;
      canvas.tabIndex = 0;
      canvas.setAttribute("aria-label", "Screen of the console: keys go there");
      // The height that spice-html5 has given to its place.
      this.screen.style.height = "";
      this.fit(this.whole);
      on.up();
    }
  }

  // One key of the keyboard, by its place; spice-html5 knows fewer, and calls people by alert().
  key(event) {
    event.stopImmediatePropagation();
    if (scancode(event.code, true)) {
      event.preventDefault();
      this.press(event.code, event.type === "keydown");
    }
  }

  press(code, down) {
    if (down === undefined) {
      this.press(code, true);
      this.press(code, false);
      return;
    }
    const { inputs } = this.main;
    if (this.viewOnly || inputs?.state !== "ready") {
      return;
    }
    this.held[down ? "add" : "delete"](code);
    const key = new SpiceMsgcKeyDown();
    key.code = scancode(code, down);
    const message = new SpiceMiniData();
    message.build_msg(down ? Constants.SPICE_MSGC_INPUTS_KEY_DOWN : Constants.SPICE_MSGC_INPUTS_KEY_UP, key);
    inputs.send_msg(message);
  }

  release() {
    for (const code of [...this.held]) {
      this.press(code, false);
    }
  }

  async type(text) {
    for (const character of text) {
      const places = placesOf(character);
      places.forEach((code) => this.press(code, true));
      places.toReversed().forEach((code) => this.press(code, false));
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }

  focus() {
    this.canvas?.focus({ preventScroll: true });
  }

  fit(whole) {
    this.whole = whole;
    const { canvas, screen } = this;
    screen.classList.toggle("fits", whole);
    if (!canvas) {
      return;
    }
    const { clientWidth, clientHeight } = screen;
    const scale = whole ? Math.min(clientWidth / canvas.width, clientHeight / canvas.height) : 1;
    // Pointers are placed by offsetX and offsetY, which a transformation leaves as they are.
    const left = Math.max(0, (clientWidth - canvas.width * scale) / 2);
    const top = Math.max(0, (clientHeight - canvas.height * scale) / 2);
    canvas.style.display = "block";
    canvas.style.transformOrigin = "0 0";
    canvas.style.transform = `translate(${left}px, ${top}px) scale(${scale})`;
  }

  close() {
    clearInterval(this.timer);
    this.stop.abort();
    this.watch.disconnect();
    this.main.stop();
    this.screen.replaceChildren();
    this.screen.removeAttribute("style");
  }
}
