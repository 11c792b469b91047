// Reads recordings of consoles: VNC as FBS 001.000, serial lines as asciicast v2. One that was cut off in the
// middle is read up to there.

const FBS = "FBS 001.";
const HEAD = 12;

// What *bytes* hold: { kind, events, seconds, size }. An event is [seconds since the begin, data].
export function readRecording(bytes) {
  const begin = new TextDecoder("latin1").decode(bytes.subarray(0, HEAD));
  if (begin.startsWith(FBS) && begin.endsWith("\n")) {
    return whole("vnc", readFbs(bytes));
  }
  if (begin.startsWith("{")) {
    return readCast(new TextDecoder().decode(bytes));
  }
  throw new Error("This is no recording of a console.");
}

function whole(kind, events, size = null) {
  return { kind, events, size, seconds: events.at(-1)?.[0] ?? 0 };
}

// Blocks: the length of the data, the data filled up to a multiple of four, and milliseconds. Source: rfbproxy.
function readFbs(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const events = [];
  let at = HEAD;
  while (at + 4 <= bytes.length) {
    const size = view.getUint32(at);
    const stamp = at + 4 + Math.ceil(size / 4) * 4;
    if (stamp + 4 > bytes.length) {
      break;
    }
    events.push([view.getUint32(stamp) / 1000, bytes.subarray(at + 4, at + 4 + size)]);
    at = stamp + 4;
  }
  return events;
}

// A line of JSON for the head, and one for each event. Source: asciinema, "asciicast v2".
function readCast(text) {
  const [first, ...lines] = text.split("\n");
  let head;
  try {
    head = JSON.parse(first);
  } catch {
    throw new Error("This is no recording of a console.");
  }
  if (head.version !== 2 || !(head.width > 0) || !(head.height > 0)) {
    throw new Error("Recordings of this version cannot be played.");
  }
  const events = [];
  for (const line of lines) {
    let event;
    try {
      event = JSON.parse(line);
    } catch {
      continue;
    }
    if (Array.isArray(event) && event[1] === "o" && typeof event[2] === "string") {
      events.push([Number(event[0]) || 0, event[2]]);
    }
  }
  return whole("serial", events, [Math.min(head.width, 500), Math.min(head.height, 200)]);
}
