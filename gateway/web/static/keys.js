// Keys by their place on a keyboard (KeyboardEvent.code): what VNC calls them, and what SPICE and terminals send.

import keysyms from "./novnc/core/input/keysymdef.js";
import scancodes from "./novnc/core/input/xtscancodes.js";

// keysym, and the characters of a terminal.
const NAMED = {
  Escape: [0xff1b, "\x1b"],
  Tab: [0xff09, "\t"],
  Enter: [0xff0d, "\r"],
  Backspace: [0xff08, "\x7f"],
  Delete: [0xffff, "\x1b[3~"],
  ControlLeft: [0xffe3],
  ShiftLeft: [0xffe1],
  AltLeft: [0xffe9],
  MetaLeft: [0xffeb],
};
const FUNCTION = ["OP", "OQ", "OR", "OS", "[15~", "[17~", "[18~", "[19~", "[20~", "[21~", "[23~", "[24~"];
FUNCTION.forEach((rest, at) => {
  NAMED[`F${at + 1}`] = [0xffbe + at, `\x1b${rest}`];
});

export const keysym = (code) => NAMED[code]?.[0];
export const sequence = (code) => NAMED[code]?.[1] ?? "";

// The keysym of one character; a line ends with Enter, whatever it is written with.
export function keysymOf(character) {
  const code = { "\n": "Enter", "\r": "Enter", "\t": "Tab", "\x7f": "Backspace", "\x1b": "Escape" }[character];
  return code ? keysym(code) : keysyms.lookup(character.codePointAt(0));
}

// Where the characters of a US keyboard are.
const ROWS = [
  ["`1234567890-=", "~!@#$%^&*()_+", ["Backquote", ..."1234567890".split("").map((it) => `Digit${it}`), "Minus", "Equal"]],
  ["qwertyuiop[]\\", 'QWERTYUIOP{}|', [..."QWERTYUIOP".split("").map((it) => `Key${it}`), "BracketLeft", "BracketRight", "Backslash"]],
  ["asdfghjkl;'", 'ASDFGHJKL:"', [..."ASDFGHJKL".split("").map((it) => `Key${it}`), "Semicolon", "Quote"]],
  ["zxcvbnm,./", "ZXCVBNM<>?", [..."ZXCVBNM".split("").map((it) => `Key${it}`), "Comma", "Period", "Slash"]],
];
const PLACES = new Map([[" ", ["Space"]], ["\n", ["Enter"]], ["\r", ["Enter"]], ["\t", ["Tab"]], ["\x7f", ["Backspace"]], ["\x1b", ["Escape"]]]);
for (const [plain, shifted, codes] of ROWS) {
  codes.forEach((code, at) => {
    PLACES.set(plain[at], [code]);
    PLACES.set(shifted[at], ["ShiftLeft", code]);
  });
}

// The keys to press together for one character on a US keyboard; none for a character that it does not have.
export const placesOf = (character) => PLACES.get(character) ?? [];

// The bytes of the first set of scan codes, as SPICE sends them: the first byte lowest.
export function scancode(code, down) {
  const found = scancodes[code] ?? 0;
  const low = (found & 0xff) | (down ? 0 : 0x80);
  return found > 0xff ? (found >> 8) | (low << 8) : low;
}
