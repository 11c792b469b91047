// The status page: what is alive, and ending it. It is served where orders are taken, and nowhere else.

import { bytes, left } from "./words.js";

const EVERY = 2000;
// Milliseconds in which a second press means it.
const SURE = 4000;
// Days of a certificate below which somebody should care.
const SOON = 14;
const TICKETS = 100;
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
  const names = [...table.tHead.rows[0].cells].map((it) => it.textContent);
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  items.forEach(([key, cells, button], at) => {
    const row = before.get(key) ?? made(key, names, cells.length, button);
    before.delete(key);
    cells.forEach((cell, number) => {
      const [text, tone] = [cell].flat();
      write(row.cells[number], text, tone);
    });
    if (body.rows[at] !== row) {
      body.insertBefore(row, body.rows[at] ?? null);
    }
  });
  for (const row of before.values()) {
    row.remove();
  }
}

function made(key, names, count, button) {
  const row = document.createElement("tr");
  row.dataset.key = key;
  for (let at = 0; at < count; at += 1) {
    row.insertCell().dataset.name = names[at];
  }
  if (button) {
    const cell = row.insertCell();
    cell.className = "act";
    cell.append(button());
  }
  return row;
}

// -- sessions ----------------------------------------------------------------------------------

// A button that has to be pressed twice.
function ender(session) {
  const button = document.createElement("button");
  button.type = "button";
  let timer = null;
  const calm = () => {
    timer = null;
    button.textContent = "End";
    button.classList.remove("sure");
    button.setAttribute("aria-label", `End the ${session.kind} of ${session.principal || session.peer || "nobody"}`);
  };
  button.addEventListener("click", () => {
    if (timer) {
      clearTimeout(timer);
      calm();
      end(session);
      return;
    }
    button.textContent = "Really end";
    button.removeAttribute("aria-label");
    button.classList.add("sure");
    timer = setTimeout(calm, SURE);
  });
  calm();
  return button;
}

async function end(session) {
  const what = `The ${session.kind} to ${session.target}`;
  try {
    await ask(`/sessions/${encodeURIComponent(session.id)}`, { method: "DELETE" });
    write(byId("said"), `${what} was ended.`);
  } catch (error) {
    write(byId("said"), `${what} was not ended: ${error.message}.`, "bad");
  }
  await look();
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
  return [it.id, cells, () => ender(it)];
}

// -- all the rest ------------------------------------------------------------------------------

function ticketRow(it) {
  const seconds = (new Date(it.expires_at) - Date.now()) / 1000;
  const alive = ["issued", "active"].includes(it.state);
  const ends = !alive ? "" : seconds > 0 ? left(seconds) : "at its end";
  return [it.ticket, [it.ticket, it.kind, it.state, it.principal, String(it.sessions.length), ends]];
}

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

async function look() {
  if (asking) {
    return;
  }
  asking = true;
  try {
    const paths = ["/status", "/sessions/", `/tickets/?limit=${TICKETS}`];
    const [status, { sessions }, { tickets, next }] = await Promise.all(paths.map((it) => ask(it)));
    state(status.draining ? "Draining" : status.ready ? "Ready" : "Not ready", status.ready ? "up" : "bad");
    facts(status);
    fill("sessions", sessions.map(sessionRow));
    fill("tickets", tickets.map(ticketRow));
    byId("more").hidden = !next;
    fill("targets", status.targets.map(targetRow));
    fill("checks", checkRows(status));
  } catch (error) {
    const text = error instanceof TypeError ? "The gateway does not answer" : error.message;
    state(text.replace(/^./, (it) => it.toUpperCase()), "bad");
  } finally {
    asking = false;
  }
}

setInterval(() => document.hidden || look(), EVERY);
document.addEventListener("visibilitychange", () => document.hidden || look());
look();
