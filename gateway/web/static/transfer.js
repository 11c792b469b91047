// Uploads and downloads one image under the ticket that stands after the # of this page's address:
// there it is sent to no server and stands in no log.

const PIECE = 32 * 1024 * 1024;
const TRIES = 4;
const WAIT = 3000;

const byId = (id) => document.getElementById(id);
const ticket = decodeURIComponent(location.hash.slice(1));
const image = `/images/${encodeURIComponent(ticket)}`;

function bytes(amount) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${unit ? amount.toFixed(1) : amount} ${units[unit]}`;
}

function say(id, text, bad = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("bad", bad);
}

const REASONS = {
  401: "The ticket is not valid, or it has expired. Ask for a new link.",
  403: "The ticket is not valid, or it has expired. Ask for a new link.",
  416: "The file is larger than the image.",
  502: "The host of the image is out of reach.",
  503: "The gateway is busy.",
  504: "The host of the image does not answer.",
};

const reason = (status, text) => REASONS[status] ?? `The gateway answered ${status}: ${text.trim()}`;

// -- one upload --------------------------------------------------------------------------------

class Upload {
  constructor(file) {
    this.file = file;
    this.done = 0;
    this.paused = false;
    this.request = null;
  }

  // Send one piece; resolves with its status and text, status 0 when the network failed.
  piece(start, end) {
    return new Promise((resolve) => {
      const request = new XMLHttpRequest();
      this.request = request;
      const last = end === this.file.size;
      request.open("PUT", `${image}?flush=${last ? "y" : "n"}`);
      request.setRequestHeader("Content-Type", "application/octet-stream");
      if (this.file.size) {
        request.setRequestHeader("Content-Range", `bytes ${start}-${end - 1}/${this.file.size}`);
      }
      request.upload.onprogress = (event) => this.show(start + event.loaded);
      request.onloadend = () => resolve({ status: request.status, text: request.responseText });
      request.send(this.file.slice(start, end));
    });
  }

  show(sent) {
    const now = performance.now();
    this.marks = [...(this.marks ?? []).filter(([time]) => now - time < 5000), [now, sent]];
    const [[then, before]] = this.marks;
    const rate = now > then ? ((sent - before) * 1000) / (now - then) : 0;
    byId("progress").value = this.file.size ? sent / this.file.size : 1;
    const left = rate > 0 ? `, ${Math.ceil((this.file.size - sent) / rate)} s left` : "";
    say("rate", `${bytes(sent)} of ${bytes(this.file.size)}, ${bytes(rate)}/s${left}`);
  }

  async run() {
    this.paused = false;
    let tries = TRIES;
    do {
      const end = Math.min(this.done + PIECE, this.file.size);
      const { status, text } = await this.piece(this.done, end);
      if (this.paused) {
        say("upload-state", "Paused.");
        return false;
      }
      if (status === 200) {
        this.done = end;
        tries = TRIES;
        continue;
      }
      const temporary = status === 0 || status >= 500;
      tries -= 1;
      if (!temporary || !tries) {
        throw new Error(status ? reason(status, text) : "The connection was lost.");
      }
      say("upload-state", `${status ? reason(status, text) : "The connection was lost."} Trying again …`);
      await new Promise((resolve) => setTimeout(resolve, WAIT));
    } while (this.done < this.file.size);
    this.show(this.file.size);
    return true;
  }

  pause() {
    this.paused = true;
    this.request?.abort();
  }
}

let upload = null;

async function start() {
  const [file] = byId("file").files;
  if (upload?.file !== file) {
    upload = new Upload(file);
  }
  byId("start").disabled = byId("file").disabled = true;
  byId("pause").disabled = false;
  say("upload-state", "Uploading …");
  try {
    if (await upload.run()) {
      say("upload-state", "Done: the image is complete.");
      upload = null;
    }
  } catch (error) {
    say("upload-state", error.message, true);
  }
  byId("start").textContent = upload ? "Go on" : "Upload";
  byId("start").disabled = byId("file").disabled = false;
  byId("pause").disabled = true;
}

async function checksum() {
  byId("check").disabled = true;
  say("checksum", "Computing; large images take minutes …");
  const response = await fetch(`${image}/checksum`);
  if (response.ok) {
    const { algorithm, block_size: size, checksum: digest } = await response.json();
    say("checksum", `${algorithm}, blocks of ${bytes(size)}: ${digest}`);
  } else {
    say("checksum", reason(response.status, await response.text()), true);
  }
  byId("check").disabled = false;
}

async function look() {
  if (!ticket) {
    say("state", "This page needs a link with a ticket.", true);
    return;
  }
  const response = await fetch(image, { method: "OPTIONS" });
  if (!response.ok) {
    say("state", reason(response.status, await response.text()), true);
    return;
  }
  const allowed = (response.headers.get("allow") ?? "").split(",");
  const { features } = await response.json();
  const writable = allowed.includes("PUT");
  const head = await fetch(image, { method: "HEAD" });
  byId("size").textContent = head.ok ? bytes(Number(head.headers.get("content-length"))) : "unknown";
  byId("may").textContent = writable ? "upload and download" : "download";
  byId("about").hidden = false;
  byId("upload").hidden = !writable;
  byId("download").hidden = false;
  byId("save").href = `${image}?close=y`;
  byId("check").hidden = !features.includes("checksum");
  say("state", "");
}

byId("file").addEventListener("change", () => {
  byId("start").disabled = !byId("file").files.length;
  byId("start").textContent = "Upload";
  upload = null;
});
byId("start").addEventListener("click", start);
byId("pause").addEventListener("click", () => upload.pause());
byId("check").addEventListener("click", checksum);
window.addEventListener("hashchange", () => location.reload());
await look();
