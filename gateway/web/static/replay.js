// Plays the recording of a console, an image like any other, under the ticket of this page's address.

import { readRecording } from "./recording.js";
import { takeTicket } from "./ticket.js";
import { bytes, clock, reason } from "./words.js";

const TITLE = document.title;
// Bytes of the longest recording that a browser is asked to hold.
const LONGEST = 512 * 1024 * 1024;
const TICK = 40;
// Seconds in which nothing happens, and what is left of them where that is skipped.
const IDLE = 1;
const PAUSE = 0.5;
// Bytes that are shown in one go, so that the page stays alive.
const GULP = 512 * 1024;
const SCREENS = { vnc: () => import("./replay-vnc.js"), serial: () => import("./replay-serial.js") };

const byId = (id) => document.getElementById(id);

function state(text, tone = "") {
  byId("state").textContent = text;
  byId("state").className = `state ${tone}`;
}

function card(what, why = "", bad = false) {
  byId("card").hidden = !what;
  byId("what").textContent = what;
  byId("why").textContent = why;
  byId("why").classList.toggle("bad", bad);
}

// -- where it comes from -----------------------------------------------------------------------

async function load(ticket) {
  let answer;
  try {
    answer = await fetch(`/images/${encodeURIComponent(ticket)}`, { cache: "no-store" });
  } catch {
    throw new Error(reason(0));
  }
  if (!answer.ok) {
    throw new Error(reason(answer.status, answer.status === 404 ? "there is no recording here" : await answer.text()));
  }
  const parts = [];
  let size = 0;
  for (const reader = answer.body.getReader(); ; ) {
    let read;
    try {
      read = await reader.read();
    } catch {
      throw new Error(reason(0));
    }
    if (read.done) {
      break;
    }
    size += read.value.length;
    if (size > LONGEST) {
      await reader.cancel();
      throw new Error(`This recording is longer than ${bytes(LONGEST)}: play it by another program.`);
    }
    parts.push(read.value);
    byId("why").textContent = bytes(size);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// -- the player --------------------------------------------------------------------------------

class Player {
  constructor(recording, Screen) {
    this.recording = recording;
    this.Screen = Screen;
    this.speed = 1;
    this.skip = true;
    this.playing = false;
    this.position = 0;
    // Those who want the position to be elsewhere, one after the other.
    this.turn = Promise.resolve();
    this.begin();
    setInterval(() => this.tick(), TICK);
  }

  begin() {
    this.screen?.close();
    this.screen = new this.Screen(byId("screen"), this.recording, (name) => {
      byId("name").textContent = name || "Recording";
      document.title = `${name || "Recording"} – ${TITLE}`;
    });
    this.next = 0;
  }

  get over() {
    return this.next >= this.recording.events.length;
  }

  play(on) {
    if (on && this.over) {
      this.seek(0);
    }
    this.playing = on;
    this.then = performance.now();
    byId("play").textContent = on ? "Pause" : "Play";
    state(on ? "Playing" : "Paused", on ? "up" : "");
  }

  tick() {
    if (!this.playing || this.busy) {
      return;
    }
    const now = performance.now();
    let position = this.position + ((now - this.then) / 1000) * this.speed;
    this.then = now;
    const coming = this.recording.events[this.next]?.[0] ?? 0;
    if (this.skip && coming - position > IDLE) {
      position = coming - PAUSE;
    }
    this.seek(position);
  }

  seek(position) {
    this.busy = true;
    this.turn = this.turn.then(() => this.go(Math.min(position, this.recording.seconds)));
  }

  async go(position) {
    const { events } = this.recording;
    if (position < this.position) {
      this.begin();
    }
    this.position = position;
    let gulp = 0;
    while (!this.over && events[this.next][0] <= position) {
      const data = events[this.next][1];
      this.screen.show(data);
      this.next += 1;
      gulp += data.length;
      if (gulp > GULP) {
        gulp = 0;
        await new Promise((done) => setTimeout(done));
      }
    }
    this.busy = false;
    this.then = performance.now();
    byId("position").value = position;
    byId("clock").textContent = `${clock(position)} / ${clock(this.recording.seconds)}`;
    byId("position").setAttribute("aria-valuetext", clock(position));
    if (this.playing && this.over) {
      this.play(false);
      state("At its end");
    }
  }
}

function control(player) {
  byId("position").max = player.recording.seconds;
  byId("player").hidden = false;
  byId("play").addEventListener("click", () => player.play(!player.playing));
  byId("position").addEventListener("input", () => player.seek(Number(byId("position").value)));
  byId("speed").addEventListener("change", () => {
    player.speed = Number(byId("speed").value);
  });
  byId("skip").addEventListener("change", () => {
    player.skip = byId("skip").checked;
  });
  byId("full").hidden = !document.fullscreenEnabled;
  byId("full").addEventListener("click", () => {
    return document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
  });
  window.addEventListener("keydown", (event) => {
    if (event.key === " " && !byId("player").contains(event.target)) {
      event.preventDefault();
      player.play(!player.playing);
    }
  });
}

async function start() {
  const ticket = takeTicket("gateway.replay");
  if (!ticket) {
    state("No ticket", "bad");
    card("No ticket", "There is no ticket in the address of this page. Use the link you were given as it is.");
    return;
  }
  state("Loading …");
  card("Loading …");
  try {
    const recording = readRecording(await load(ticket));
    const { Screen } = await SCREENS[recording.kind]();
    card("");
    const player = new Player(recording, Screen);
    control(player);
    player.play(true);
    byId("play").focus();
  } catch (error) {
    state("Failed", "bad");
    card("This cannot be played", error.message, true);
  }
}

window.addEventListener("hashchange", () => location.reload());
start();
