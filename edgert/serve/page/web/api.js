// The server's addresses. A key that it asks for is kept for this tab only.

const KEY = "edgert-key";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

function headers() {
  const key = sessionStorage.getItem(KEY);
  return {
    "content-type": "application/json",
    ...(key ? { authorization: `Bearer ${key}` } : {}),
  };
}

async function checked(response) {
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refused(response.status, told?.error?.message ?? `the server answers ${response.status}`);
}

async function reached(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server can't be reached");
  }
}

export async function get(path) {
  return (await checked(await reached(path, { headers: headers() }))).json();
}

export async function post(path, body) {
  const options = { method: "POST", headers: headers(), body: JSON.stringify(body) };
  return (await checked(await reached(path, options))).json();
}

// The events of a stream, as objects. Aborting the signal stops the answer on the server, too.
export async function* events(path, body, signal) {
  const options = { method: "POST", headers: headers(), body: JSON.stringify(body), signal };
  const response = await checked(await reached(path, options));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (text + value).split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ")) continue;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw new Refused(200, event.error.message);
      yield event;
    }
  }
}
