// The screen of a VNC recording: noVNC, which takes what was recorded for a server's words.

import RFB from "./novnc/core/rfb.js";

// As much of a websocket as noVNC uses. What it says is heard by nobody.
class Channel {
  binaryType = "arraybuffer";
  protocol = "";
  readyState = WebSocket.OPEN;
  onopen = null;
  onmessage = null;
  onerror = null;
  onclose = null;

  send() {}

  close() {
    this.readyState = WebSocket.CLOSED;
    // Later, as a websocket does it.
    queueMicrotask(() => this.onclose?.({ code: 1000, reason: "", wasClean: true }));
  }
}

export class Screen {
  constructor(place, recording, named) {
    this.channel = new Channel();
    this.rfb = new RFB(place, this.channel);
    this.rfb.viewOnly = true;
    this.rfb.scaleViewport = true;
    this.rfb.background = "transparent";
    this.rfb.addEventListener("desktopname", ({ detail }) => named(detail.name));
  }

  show(data) {
    this.channel.onmessage({ data: data.slice().buffer });
  }

  close() {
    this.rfb.disconnect();
  }
}
