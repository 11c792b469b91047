// How the pages say numbers and failures.

const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

export function bytes(amount) {
  let unit = 0;
  while (amount >= 1024 && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${unit ? amount.toFixed(1) : Math.round(amount)} ${UNITS[unit]}`;
}

export function duration(seconds) {
  if (seconds < 100) {
    return `${Math.ceil(seconds)} s`;
  }
  const minutes = Math.ceil(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const REFUSED = "The ticket is not valid: it has expired, was revoked, or does not allow this. Ask for a new link.";
const REASONS = {
  0: "The connection to the gateway was lost.",
  401: REFUSED,
  403: REFUSED,
  416: "The file is larger than the image may be.",
  429: "The gateway is busy.",
  502: "The host of the image is out of reach.",
  503: "The gateway is busy.",
  504: "The host of the image does not answer.",
};

// What a status means for whoever uses the page; 0 stands for no answer at all.
export function reason(status, text = "") {
  return REASONS[status] ?? `The gateway answered ${status}: ${text.trim().slice(0, 300)}`;
}

// A length of time as a clock shows it.
export function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(whole % 60)}`;
}

// What is left of a time, as people say it.
export function left(seconds) {
  return seconds < 3600 ? clock(Math.ceil(seconds)) : `${Math.floor(seconds / 3600)} h ${Math.floor(seconds / 60) % 60} min`;
}

const ENDINGS = {
  1000: "The console has ended.",
  1001: "The gateway is going away.",
  1006: "The connection to the gateway was lost.",
  4404: "There are no consoles at this address.",
  4429: "The gateway is busy.",
  4502: "The console is out of reach.",
  4503: "The gateway is busy.",
  4504: "The console does not answer.",
};
// The dialect of images begins its refusals with this, which says nothing.
const FORMAL = /^You are not allowed to access this resource: /;

// Whether the ticket is of no more use.
export const isOver = (code) => code === 4401 || code === 4403;

// What somebody else says, as one of our sentences.
export function sentence(text) {
  // Some end their texts as C does.
  return text.replaceAll("\0", "").trim().slice(0, 300).replace(/[^.!?]$/, "$&.");
}

// Why a websocket was closed: the gateway's own words where it has some.
export function ending(code, text = "") {
  const own = sentence(text.replace(FORMAL, ""));
  const said = (code > 4000 && own) || ENDINGS[code] || own || `The connection was closed (${code}).`;
  return isOver(code) ? `${said} Ask for a new link.` : said;
}
