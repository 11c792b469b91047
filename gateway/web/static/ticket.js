// The ticket of a page: it comes after the # of the address, which is sent to no server and stands in no log.
// It does not stay in the address bar, either; for a reload the tab remembers it.

export function takeTicket(name) {
  let ticket = "";
  try {
    ticket = decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
  if (!location.hash) {
    return sessionStorage.getItem(name) ?? "";
  }
  history.replaceState(null, "", location.pathname + location.search);
  sessionStorage.setItem(name, ticket);
  return ticket;
}

// As an item of Sec-WebSocket-Protocol: base64url without padding.
export function asProtocol(ticket) {
  const binary = String.fromCharCode(...new TextEncoder().encode(ticket));
  return `ticket.${btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}
