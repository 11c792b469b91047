// Uploads and downloads one image under the ticket that stands after the # of this page's address:
// there it is sent to no server and stands in no log.

import { Upload } from "./upload.js";
import { bytes, duration, reason } from "./words.js";

const TITLE = document.title;
// Milliseconds over which the rate is measured.
const WINDOW = 5000;

const byId = (id) => document.getElementById(id);

function say(id, text, bad = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("bad", bad);
}

// The path of the image, null when the address of this page holds no ticket.
function imageOf(hash) {
  try {
    const ticket = decodeURIComponent(hash.slice(1));
    return ticket ? `/images/${encodeURIComponent(ticket)}` : null;
  } catch {
    return null;
  }
}

const image = imageOf(location.hash);

// The answer to one request; anything but success is an Error with words for people.
async function ask(path, method = "GET") {
  let response;
  try {
    response = await fetch(path, { method, cache: "no-store" });
  } catch {
    throw new Error(reason(0));
  }
  if (!response.ok) {
    throw new Error(reason(response.status, await response.text()));
  }
  return response;
}

// -- upload ------------------------------------------------------------------------------------

let upload = null;
let marks = [];

function show(sent) {
  const { size } = byId("file").files[0];
  const now = performance.now();
  marks = [...marks.filter(([time]) => now - time < WINDOW), [now, sent]];
  const [[then, before]] = marks;
  const rate = now > then ? Math.max(0, ((sent - before) * 1000) / (now - then)) : 0;
  const part = size ? sent / size : 0;
  byId("progress").value = part;
  document.title = `${Math.floor(part * 100)} % – ${TITLE}`;
  const left = rate > 0 && sent < size ? `, ${duration((size - sent) / rate)} left` : "";
  say("rate", `${bytes(sent)} of ${bytes(size)}${rate > 0 ? `, ${bytes(rate)}/s` : ""}${left}`);
}

// Which of the buttons can be used. Whoever pressed one by keyboard is not left without a focus.
function enable(running) {
  const { activeElement } = document;
  byId("start").disabled = running || !byId("file").files.length;
  byId("file").disabled = running;
  byId("pause").disabled = !running;
  const [left, next] = running ? ["start", "pause"] : ["pause", "start"];
  if (activeElement === byId(left)) {
    byId(next).focus();
  }
}

async function start() {
  upload ??= new Upload(image, byId("file").files[0], {
    progress: (sent) => {
      show(sent);
      if (sent > upload.done) {
        say("upload-state", "Uploading …");
      }
    },
    trouble: (text) => say("upload-state", text, true),
  });
  marks = [];
  enable(true);
  byId("meter").hidden = false;
  say("upload-state", "Uploading …");
  // The checksum of what was there before is none of what will be.
  say("check-state", "");
  byId("checksum").textContent = "";
  window.addEventListener("beforeunload", warn);
  try {
    if (await upload.run()) {
      byId("progress").value = 1;
      document.title = `Done – ${TITLE}`;
      say("upload-state", "Done: the file is in the image.");
      upload = null;
      byId("start").textContent = "Upload";
      await describe();
    } else {
      byId("start").textContent = "Go on";
      say("upload-state", "Paused.");
    }
  } catch (error) {
    byId("start").textContent = upload.done ? "Go on" : "Upload";
    document.title = `Failed – ${TITLE}`;
    say("upload-state", error.message, true);
  }
  window.removeEventListener("beforeunload", warn);
  enable(false);
}

function warn(event) {
  event.preventDefault();
}

function choose() {
  upload = null;
  document.title = TITLE;
  byId("start").textContent = "Upload";
  byId("meter").hidden = true;
  say("upload-state", "");
  enable(false);
}

// -- download ----------------------------------------------------------------------------------

async function checksum() {
  byId("check").disabled = true;
  byId("checksum").textContent = "";
  say("check-state", "Computing; large images take minutes …");
  try {
    const { algorithm, block_size: size, checksum: digest } = await (await ask(`${image}/checksum`)).json();
    say("check-state", `${algorithm} over the ${algorithm} digests of blocks of ${bytes(size)}:`);
    byId("checksum").textContent = digest;
  } catch (error) {
    say("check-state", error.message, true);
  }
  byId("check").disabled = false;
}

// -- the ticket --------------------------------------------------------------------------------

async function describe() {
  try {
    const { headers } = await ask(image, "HEAD");
    byId("size").textContent = bytes(Number(headers.get("Content-Length")));
  } catch {
    byId("size").textContent = "unknown";
  }
}

async function look() {
  if (image === null) {
    say("state", "There is no ticket in the address of this page. Open it with the link you were given.", true);
    return;
  }
  say("state", "Looking at your ticket …");
  try {
    const response = await ask(image, "OPTIONS");
    const writable = (response.headers.get("Allow") ?? "").split(",").includes("PUT");
    const { features = [] } = await response.json();
    byId("may").textContent = writable ? "upload and download" : "download";
    byId("upload").hidden = !writable;
    byId("save").href = `${image}?close=y`;
    byId("check").hidden = !features.includes("checksum");
  } catch (error) {
    say("state", error.message, true);
    return;
  }
  await describe();
  byId("about").hidden = byId("download").hidden = false;
  say("state", "");
}

byId("file").addEventListener("change", choose);
byId("start").addEventListener("click", start);
byId("pause").addEventListener("click", () => upload.pause());
byId("check").addEventListener("click", checksum);
window.addEventListener("hashchange", () => location.reload());
await look();
