// The status page: what is alive and what opens something, and ending it. It is served where orders are taken, and nowhere else.

import { bytes, left } from "./words.js";

const EVERY = 2000;
// Milliseconds in which a second press means it.
const SURE = 4000;
// Days of a certificate below which somebody should care.
const SOON = 14;
// Rows of a table that are seen at a time.
const PAGE = 100;
// Checks of something that should not be.
const UNWANTED = new Set(["draining", "overload"]);

const byId = (id) => document.getElementById(id);

async function ask(path, options = {}) {
  const answer = await fetch(path, { cache: "no-store", ...options });
  if (!answer.ok) {
    throw new Error(`the gateway answered ${answer.status}`);
  }
  return answer.status === 204 ? null : answer.json();
}

// Write what is new only, so that a screen reader is not told the same again, and a selection stays.
function write(element, text, tone = "") {
  if (element.textContent !== text) {
    element.textContent = text;
  }
  element.classList.toggle("bad", tone === "bad");
}

// -- tables ------------------------------------------------------------------------------------

// Make the rows of a table those of *items*: [key, cells, button?]. A cell is a text, or [text, tone]. A row
// stays where its key stays, and so does the focus in it.
function fill(id, items) {
  const table = byId(id);
  const body = table.tBodies[0];
  const held = body.contains(document.activeElement);
  const keys = new Set(items.map(([key]) => key));
  // First, so that none of those that stay has to move.
  [...body.rows].filter((row) => !keys.has(row.dataset.key)).forEach((row) => row.remove());
  const names = [...table.tHead.rows[0].cells].map((it) => it.textContent);
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  items.forEach(([key, cells, button], at) => {
    const row = before.get(key) ?? made(key, names, cells.length);
    cells.forEach((cell, number) => {
      const [text, tone] = [cell].flat();
      write(row.cells[number], text, tone);
    });
    if (body.rows[at] !== row) {
      body.insertBefore(row, body.rows[at] ?? null);
    }
    if (names.length > cells.length) {
      act(row.cells[cells.length], button);
    }
  });
  // Who works by keyboard goes on from here when the row is gone that had the focus.
  if (held && !body.contains(document.activeElement)) {
    table.closest("section").querySelector("h2").focus({ preventScroll: true });
  }
}

// Give a *cell* its button, or none any more; the focus stays in the row.
function act(cell, button) {
  if (!button) {
    const held = cell.contains(document.activeElement);
    cell.replaceChildren();
    if (held) {
      const [first] = cell.parentElement.cells;
      first.tabIndex = -1;
      first.focus({ preventScroll: true });
    }
  } else if (!cell.firstChild) {
    cell.append(button());
  }
}

function made(key, names, count) {
  const row = document.createElement("tr");
  row.dataset.key = key;
  for (let at = 0; at < count; at += 1) {
    row.insertCell().dataset.name = names[at];
  }
  if (names.length > count) {
    row.insertCell().className = "act";
  }
  return row;
}

// Say how many rows there are in all, which of them page *number*, from 0 on, shows, and whether *more* follow.
function part(id, number, count, total, more) {
  write(byId(`${id}-total`), total ? `(${total.toLocaleString()})` : "");
  const pages = byId(`${id}-pages`);
  const [back, next] = pages.querySelectorAll("button");
  const first = number * PAGE;
  pages.hidden = number === 0 && !more;
  // Not really disabled: that would take the focus away.
  back.setAttribute("aria-disabled", number === 0);
  next.setAttribute("aria-disabled", !more);
  const shown = [first + 1, first + count, total].map((it) => it.toLocaleString());
  write(pages.querySelector("span"), `${shown[0]}–${shown[1]} of ${shown[2]}`);
}

// Let the buttons of a table turn its pages; *turn* is told by how many.
function turns(id, turn) {
  byId(`${id}-pages`).querySelectorAll("button").forEach((button, at) => {
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") !== "true") {
        turn(at ? 1 : -1);
        look();
      }
    });
  });
}

// -- orders ------------------------------------------------------------------------------------

// A button with a *word* that has to be pressed twice; *label* says what for.
function twice(word, label, act) {
  const button = document.createElement("button");
  button.type = "button";
  let timer = null;
  const calm = () => {
    timer = null;
    button.textContent = word;
    button.classList.remove("sure");
    button.setAttribute("aria-label", `${word} ${label}`);
  };
  button.addEventListener("click", () => {
    if (timer) {
      clearTimeout(timer);
      calm();
      act();
      return;
    }
    button.textContent = `Really ${word.toLowerCase()}`;
    button.removeAttribute("aria-label");
    button.classList.add("sure");
    timer = setTimeout(calm, SURE);
  });
  calm();
  return button;
}

// Have *path* deleted, which makes of *what* something *done*.
async function remove(path, what, done) {
  try {
    await ask(path, { method: "DELETE" });
    write(byId("said"), `${what} was ${done}.`);
  } catch (error) {
    write(byId("said"), `${what} was not ${done}: ${error.message}.`, "bad");
  }
  await look();
}

// -- sessions ----------------------------------------------------------------------------------

let sessionPage = 0;

turns("sessions", (by) => {
  sessionPage += by;
});

function showSessions(sessions) {
  sessionPage = Math.max(0, Math.min(sessionPage, Math.ceil(sessions.length / PAGE) - 1));
  const shown = sessions.slice(sessionPage * PAGE, (sessionPage + 1) * PAGE);
  fill("sessions", shown.map(sessionRow));
  const more = (sessionPage + 1) * PAGE < sessions.length;
  part("sessions", sessionPage, shown.length, sessions.length, more);
}

const time = (text) => new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function sessionRow(it) {
  const cells = [
    it.op ? `${it.kind}, ${it.op}` : it.kind,
    it.target,
    it.principal,
    it.peer ?? "",
    time(it.since),
    `${bytes(it.rate)}/s`,
    `${bytes(it.bytes_in)} in, ${bytes(it.bytes_out)} out`,
  ];
  const button = () => twice("End", `the ${it.kind} of ${it.principal || it.peer || "nobody"}`, () =>
    remove(`/sessions/${encodeURIComponent(it.id)}`, `The ${it.kind} to ${it.target}`, "ended"));
  return [it.id, cells, button];
}

// -- tickets -----------------------------------------------------------------------------------

// Behind which ticket each page begins that was turned to, and behind which the next one would.
const begins = [""];
let following = "";

turns("tickets", (by) => {
  if (by > 0) {
    begins.push(following);
  } else {
    begins.pop();
  }
});

function showTickets(tickets, counts) {
  const total = Object.values(counts).flatMap(Object.values).reduce((sum, it) => sum + it, 0);
  const shown = tickets.slice(0, PAGE);
  if (!shown.length && begins.length > 1) {
    // All that was on this page is gone.
    begins.pop();
    look();
    return;
  }
  following = shown.at(-1)?.ticket ?? "";
  fill("tickets", shown.map(ticketRow));
  part("tickets", begins.length - 1, shown.length, total, tickets.length > PAGE);
}

function ticketRow(it) {
  const seconds = (new Date(it.expires_at) - Date.now()) / 1000;
  const alive = ["issued", "active"].includes(it.state);
  const ends = !alive ? "" : seconds > 0 ? left(seconds) : "at its end";
  const whose = it.principal ? `${it.ticket} of ${it.principal}` : it.ticket;
  const button = () => twice("Revoke", `the ticket ${whose}`, () =>
    remove(`/fingerprints/${encodeURIComponent(it.ticket)}`, `The ticket ${whose}`, "revoked"));
  const cells = [it.ticket, it.kind, it.state, it.principal, String(it.sessions.length), ends];
  return [it.ticket, cells, it.state === "revoked" ? null : button];
}

// -- all the rest ------------------------------------------------------------------------------

function targetRow(it) {
  const down = Boolean(it.error);
  const calls = `${it.in_flight} under way, ${it.queued} waiting`;
  const latency = it.latency ? `${Math.round(it.latency * 1000)} ms` : "";
  return [it.target, [it.target, [it.state, down ? "bad" : ""], calls, latency, it.error]];
}

function checkRows(status) {
  const certificates = status.certificates.map((it) => {
    const tone = it.days_left < SOON ? "bad" : "";
    const ends = new Date(it.not_after).toLocaleDateString();
    return [it.file, [it.file.split("/").at(-1), [`${Math.floor(it.days_left)} days left`, tone], `until ${ends}`]];
  });
  const checks = Object.entries(status.checks)
    .filter(([name]) => name !== "tls" || certificates.length === 0)
    .map(([name, it]) => {
      const words = UNWANTED.has(name) ? ["no", "yes"] : ["good", "bad"];
      return [name, [name.replaceAll("_", " "), it.ok ? words[0] : [words[1], "bad"], it.text]];
    });
  return [...certificates, ...checks];
}

function facts(status) {
  const found = {
    Version: status.version,
    Up: left(status.uptime),
    "From clients": bytes(status.bytes_in),
    "To clients": bytes(status.bytes_out),
    "Lag of the loop": `${(status.loop_lag * 1000).toFixed(1)} ms`,
  };
  const list = byId("facts");
  Object.entries(found).forEach(([name, text], at) => {
    if (!list.children[at]) {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      term.textContent = name;
      pair.append(term, document.createElement("dd"));
      list.append(pair);
    }
    write(list.children[at].lastChild, text);
  });
}

function state(text, tone) {
  const element = byId("state");
  if (element.textContent !== text) {
    element.textContent = text;
  }
  element.className = `state ${tone}`;
}

let asking = false;
let again = false;

// Show how it is now; what was asked for before is not what is wanted any more.
async function look() {
  again = asking;
  if (asking) {
    return;
  }
  asking = true;
  do {
    again = false;
    await show();
  } while (again);
  asking = false;
}

async function show() {
  try {
    // One more than is shown tells whether there are more.
    const after = encodeURIComponent(begins.at(-1));
    const paths = ["/status", "/sessions/", `/tickets/?limit=${PAGE + 1}&after=${after}`];
    const [status, { sessions }, { tickets }] = await Promise.all(paths.map((it) => ask(it)));
    if (again) {
      return;
    }
    state(status.draining ? "Draining" : status.ready ? "Ready" : "Not ready", status.ready ? "up" : "bad");
    facts(status);
    showSessions(sessions);
    showTickets(tickets, status.tickets);
    fill("targets", status.targets.map(targetRow));
    fill("checks", checkRows(status));
  } catch (error) {
    const text = error instanceof TypeError ? "The gateway does not answer" : error.message;
    state(text.replace(/^./, (it) => it.toUpperCase()), "bad");
  }
}

const glance = () => document.hidden || asking || look();
setInterval(glance, EVERY);
document.addEventListener("visibilitychange", glance);
look();
