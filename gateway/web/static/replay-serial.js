// The screen of a serial line's recording.

import { openTerminal } from "./terminal.js";

export class Screen {
  constructor(place, { size }) {
    this.opened = openTerminal(place, { size, disableStdin: true });
    place.classList.add("plain");
  }

  show(data) {
    this.opened.terminal.write(data);
  }

  close() {
    this.opened.close();
  }
}
