// The console page: one console under the ticket of its address, by the viewer for its kind.

import { asProtocol, takeTicket } from "./ticket.js";
import { Toolbar } from "./toolbar.js";
import { ending, isOver, left } from "./words.js";

// Places of consoles at the gateway: what is asked about one, and its websocket.
const PATH = "/console/";
const ADDRESS = `${location.origin.replace(/^http/, "ws")}${PATH}`;
const NAME = "gateway.console";
const TITLE = document.title;
const VIEWERS = {
  vnc: () => import("./vnc.js"),
  spice: () => import("./spice.js"),
  serial: () => import("./serial.js"),
  raw: () => import("./serial.js"),
};
// Seconds between two tries after the connection was lost.
const TRIES = [1, 2, 4, 8, 15, 30];

// Before a viewer puts something else in its place.
const Socket = globalThis.WebSocket;

const byId = (id) => document.getElementById(id);
let ticket = takeTicket(NAME);

// -- what the ticket says ----------------------------------------------------------------------

class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.code = status ? 4000 + status : 1006;
  }
}

// What the gateway knows of our console; uses nothing up.
async function ask() {
  let answer;
  try {
    answer = await fetch(PATH, { headers: { Authorization: `Bearer ${ticket}` }, cache: "no-store" });
  } catch {
    throw new Refused(0, "");
  }
  if (!answer.ok) {
    throw new Refused(answer.status, answer.status === 404 ? "" : await answer.text());
  }
  return answer.json();
}

// Shows how long the ticket is good, and asks again: somebody may have renewed it.
class Ends {
  constructor() {
    this.at = null;
    this.next = 0;
  }

  set(seconds) {
    const now = performance.now();
    this.at = seconds === null ? null : now + seconds * 1000;
    // Once a minute, and more often when it is near.
    const wait = seconds === null || seconds > 75 ? 60 : seconds > 14 ? seconds - 10 : 2;
    this.next = now + wait * 1000;
    this.show();
  }

  show() {
    const seconds = this.at === null ? Infinity : (this.at - performance.now()) / 1000;
    byId("ends").hidden = this.at === null;
    byId("ends").classList.toggle("bad", seconds < 60);
    if (this.at !== null) {
      byId("ends").textContent = seconds > 0 ? `ends in ${left(seconds)}` : "at its end";
    }
  }

  async tick() {
    this.show();
    if (performance.now() >= this.next && viewer) {
      this.next = Infinity;
      try {
        show(await ask());
      } catch (error) {
        // A console may outlive what its ticket says, and is told of its own end.
        this.set(null);
        this.next = error.code === 1006 ? performance.now() + 10_000 : Infinity;
      }
    }
  }
}

// -- the console -------------------------------------------------------------------------------

let viewer = null;
let remains = null;
let attempt = 0;
let about = null;
let tries = 0;
let retry = null;
let fault = "";
let credentials = {};
const ends = new Ends();
const toolbar = new Toolbar(() => viewer, () => open({ again: true }));

function state(text, tone = "") {
  byId("state").textContent = text;
  byId("state").className = `state ${tone}`;
}

// What is said in the middle of the screen; nothing at all lets the console be seen.
function card(what = "", why = "", { bad = false, again = false, login = null } = {}) {
  byId("card").hidden = !what;
  byId("what").textContent = what;
  byId("why").textContent = why;
  byId("why").classList.toggle("bad", bad);
  byId("when").textContent = "";
  byId("again").hidden = !again;
  byId("again").classList.add("main");
  byId("login").hidden = !login;
  for (const id of ["user", "user-label"]) {
    byId(id).hidden = !login?.includes("username");
  }
}

function show(found) {
  about = found;
  byId("view-only").hidden = found.op !== "view";
  byId("recorded").hidden = !found.record;
  byId("shared").hidden = !found.shared;
  ends.set(found.ends_in);
}

// Makes websockets to our console. What is no channel *aside* decides when the console is at its end, as long
// as nobody has begun anew.
function connector() {
  const mine = attempt;
  return ({ aside = false } = {}) => {
    const socket = new Socket(ADDRESS, ["binary", asProtocol(ticket)]);
    if (!aside) {
      socket.addEventListener("close", ({ code, reason }) => mine === attempt && over(code, reason));
    }
    return socket;
  };
}

// End what there is. What a terminal showed last may be read until there is something else.
function close({ keep = false } = {}) {
  clearTimeout(retry);
  attempt += 1;
  remains?.close();
  viewer?.close(keep);
  remains = keep && viewer?.lasts ? viewer : null;
  viewer = null;
  if (!remains) {
    byId("screen").replaceChildren();
  }
  toolbar.show(null);
}

function wait(seconds) {
  const until = performance.now() + seconds * 1000;
  const step = () => {
    const left = Math.ceil((until - performance.now()) / 1000);
    if (left <= 0) {
      open();
    } else {
      byId("when").textContent = `Trying again in ${left} s.`;
      retry = setTimeout(step, 200);
    }
  };
  step();
}

// The console is at its end: close codes of 4000 and more are the gateway's own.
function over(code, reason) {
  const focused = document.activeElement;
  const inside = !focused || focused === document.body || byId("stage").contains(focused);
  close({ keep: true });
  ends.set(null);
  byId("ends").hidden = true;
  const said = code < 4000 && fault ? fault : ending(code, reason);
  document.title = `Ended – ${TITLE}`;
  if (code === 1006 && !fault) {
    state("Disconnected", "bad");
    card("Disconnected", said, { bad: true, again: true });
    wait(TRIES[Math.min(tries++, TRIES.length - 1)]);
    return;
  }
  state("Ended", "bad");
  card("Ended", said, { bad: code !== 1000, again: true });
  byId("again").classList.toggle("main", !isOver(code));
  if (inside) {
    byId("again").focus();
  }
}

async function start() {
  state("Connecting …");
  card("Connecting …");
  document.title = TITLE;
  const mine = attempt;
  show(await ask());
  let module;
  try {
    module = await VIEWERS[about.kind]();
  } catch {
    throw new Refused(501, "This gateway was installed without the viewers for consoles: npm was missing then.");
  }
  if (mine !== attempt) {
    return;
  }
  const screen = byId("screen");
  screen.className = about.kind === "spice" ? "plain" : "";
  const made = new module.Viewer(screen, {
    connect: connector(),
    address: ADDRESS,
    viewOnly: about.op === "view",
    fit: toolbar.fits,
    credentials,
    on: {
      up() {
        [tries, fault, credentials] = [0, "", {}];
        state("Connected", "up");
        card();
        toolbar.show(made, about);
        if (!byId("bar").contains(document.activeElement)) {
          made.focus();
        }
      },
      named(name) {
        byId("name").textContent = name || "Console";
        document.title = `${name || "Console"} – ${TITLE}`;
      },
      copied: (text) => toolbar.copied(text),
      asked(types, why = "") {
        if (!made.login) {
          // It has to begin anew with what it is told.
          close();
        }
        state("Asking for a password");
        card("This console asks for a password", why, { bad: true, login: types });
        byId(types.includes("username") ? "user" : "password").focus();
      },
      failed(text) {
        fault = text;
      },
    },
  });
  viewer = made;
}

async function open({ again = false } = {}) {
  if (again) {
    tries = 0;
  }
  fault = "";
  close();
  if (!ticket) {
    state("No ticket", "bad");
    card("No ticket", "There is no ticket in the address of this page. Use the link you were given as it is.");
    return;
  }
  const mine = attempt;
  try {
    await start();
  } catch (error) {
    if (mine !== attempt) {
      return;
    }
    if (!(error instanceof Refused)) {
      throw error;
    }
    over(error.code, error.message);
  }
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  credentials = { username: byId("user").value, password: byId("password").value };
  byId("password").value = "";
  if (viewer?.login) {
    card("Connecting …");
    viewer.login(credentials);
  } else {
    open();
  }
});
byId("again").addEventListener("click", () => open({ again: true }));
window.addEventListener("hashchange", () => {
  ticket = takeTicket(NAME);
  byId("name").textContent = "Console";
  open({ again: true });
});
// A browser may keep a page that was left, and nobody shall have a console that he does not see.
window.addEventListener("pagehide", () => close());
window.addEventListener("pageshow", (event) => event.persisted && open({ again: true }));
setInterval(() => ends.tick(), 500);
open();
