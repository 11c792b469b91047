// Sends one file into one image, piece by piece: what is lost with a connection is one piece.

import { reason } from "./words.js";

const MIB = 1024 * 1024;
const SMALLEST = 1 * MIB;
const FIRST = 8 * MIB;
const LARGEST = 128 * MIB;
// A piece should take between these many milliseconds: long enough to fill the line, short enough to repeat.
const QUICK = 2000;
const SLOW = 8000;
// Tries for each piece, and milliseconds between them and until one is given up.
const TRIES = 4;
const WAIT = 3000;
const LONGEST_WAIT = 60000;
const TIMEOUT = 600000;

export class Upload {
  #stop = null;
  #size = FIRST;

  // `url` is the image; `progress(sent)` and `trouble(text)` tell how it goes.
  constructor(url, file, { progress, trouble }) {
    this.url = url;
    this.file = file;
    this.done = 0;
    this.progress = progress;
    this.trouble = trouble;
  }

  // Go on from where we were. True when the image is complete, false when paused; otherwise an Error that
  // says why in words for people.
  async run() {
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.progress(this.done);
    if (this.done === 0) {
      await this.#fit(signal);
    }
    let tries = TRIES;
    do {
      if (signal.aborted) {
        break;
      }
      const end = Math.min(this.done + this.#size, this.file.size);
      const last = end === this.file.size;
      const began = performance.now();
      const range = this.file.size ? `bytes ${this.done}-${end - 1}/${this.file.size}` : null;
      const answer = await this.#put(this.file.slice(this.done, end), range, last ? "y" : "n", signal);
      if (answer.status === 200) {
        this.done = end;
        this.#adapt(performance.now() - began);
        tries = TRIES;
        if (last) {
          this.progress(end);
          return true;
        }
      } else if (!signal.aborted) {
        tries -= 1;
        await this.#endure(answer, tries, signal);
      }
    } while (!signal.aborted);
    this.progress(this.done);
    return false;
  }

  pause() {
    this.#stop.abort();
  }

  // Ask with an empty piece at the end of the file whether it fits, before hours are spent on it.
  async #fit(signal) {
    const { status, text } = await this.#put(new Blob(), `bytes ${this.file.size}-*/*`, "n", signal);
    if (status === 401 || status === 403 || status === 416) {
      throw new Error(reason(status, text));
    }
  }

  // Wait for better times after a failure that may pass.
  async #endure({ status, text, after }, tries, signal) {
    if (status === 0 && !(await this.#isReadable())) {
      throw new Error("The file cannot be read any more, or it has changed. Choose it again.");
    }
    const passes = status === 0 || status === 429 || status >= 500;
    if (!passes || tries === 0) {
      throw new Error(reason(status, text));
    }
    this.trouble(`${reason(status, text)} Trying again …`);
    await new Promise((resolve) => {
      setTimeout(resolve, Math.min(Math.max(WAIT, after * 1000), LONGEST_WAIT));
      signal.addEventListener("abort", resolve, { once: true });
    });
  }

  async #isReadable() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
      return true;
    } catch {
      return false;
    }
  }

  #adapt(time) {
    if (time < QUICK) {
      this.#size = Math.min(this.#size * 2, LARGEST);
    } else if (time > SLOW) {
      this.#size = Math.max(this.#size / 2, SMALLEST);
    }
  }

  // One request; status 0 when it failed without an answer. Only XMLHttpRequest tells the progress of uploads.
  #put(body, range, flush, signal) {
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      const start = this.done;
      const abort = () => request.abort();
      request.open("PUT", `${this.url}?flush=${flush}`);
      request.timeout = TIMEOUT;
      request.setRequestHeader("Content-Type", "application/octet-stream");
      if (range) {
        request.setRequestHeader("Content-Range", range);
      }
      request.upload.onprogress = ({ loaded }) => this.progress(start + loaded);
      request.onloadend = () => {
        signal.removeEventListener("abort", abort);
        const { status, responseText: text } = request;
        resolve({ status, text, after: Number(status && request.getResponseHeader("Retry-After")) || 0 });
      };
      signal.addEventListener("abort", abort);
      request.send(body);
    });
  }
}
