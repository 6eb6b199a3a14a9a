// The page: which conversation is open, and the question that is being answered.

import { Refused, events, get, useKey } from "./api.js";
import { element } from "./markdown.js";
import { Answer, question } from "./message.js";
import * as settings from "./settings.js";
import { Sidebar } from "./sidebar.js";

const $ = (id) => document.getElementById(id);
const talk = $("talk");
const field = $("question");
let session = null; // the open conversation's name; null until its first question
let after = null; // how many messages stay before the next question; null is all of them
let count = 0; // messages that are shown
let asking = null; // aborts the answer that is being made

const sidebar = new Sidebar({
  open: (name) => open(name),
  removed: (name) => name === session && begin(),
  renamed: (name, to) => name === session && go(to),
  notice,
});

function notice(text, label, act) {
  const parts = [text];
  if (label) {
    const button = element("button", { type: "button" }, label);
    button.addEventListener("click", () => {
      notice("");
      act();
    });
    parts.push(button);
  }
  $("notice").replaceChildren(...parts);
}

function say(text) {
  $("status").textContent = text;
}

function go(name) {
  session = name;
  sidebar.choose(name);
  $("title").textContent = name ? name.replaceAll("-", " ") : "New conversation";
  document.title = name ? `${name.replaceAll("-", " ")} – edgert` : "edgert";
  const wanted = name ? `#${encodeURIComponent(name)}` : "#";
  if (location.hash !== wanted) history.replaceState(null, "", wanted);
}

function begin() {
  asking?.abort();
  talk.replaceChildren();
  [after, count] = [null, 0];
  $("context").textContent = "";
  go(null);
  showSidebar(false);
  field.focus();
}

async function open(name) {
  asking?.abort();
  const kept = await tried(() => get(`/sessions/${encodeURIComponent(name)}`));
  if (!kept) return begin();
  talk.replaceChildren();
  [after, count] = [null, 0];
  for (const message of kept.messages) {
    if (message.role === "user") addQuestion(message.content);
    else if (message.role === "assistant") addAnswer(Answer.kept(message, retry));
  }
  go(name);
  showSidebar(false);
  $("context").textContent = "";
  talk.scrollTop = talk.scrollHeight;
  field.focus();
}

function addQuestion(text) {
  const place = count++;
  const node = question(text, (old) => edit(place, old));
  node.dataset.place = place;
  talk.append(node);
}

function addAnswer(answer) {
  answer.node.dataset.place = count++;
  talk.append(answer.node);
  return answer;
}

// The question goes back into the field; asking it forgets what came after it.
function edit(place, text) {
  after = place;
  field.value = text;
  grow();
  field.focus();
  notice("Sending this forgets what came after it.", "Keep all", () => {
    after = null;
    field.value = "";
  });
}

function retry() {
  const questions = talk.querySelectorAll(".question");
  const last = questions[questions.length - 1];
  if (!last || asking) return;
  after = Number(last.dataset.place);
  ask(last.querySelector(".body").textContent);
}

function forget(from) {
  for (const node of [...talk.children]) if (Number(node.dataset.place) >= from) node.remove();
  count = from;
}

async function ask(text) {
  if (asking) return;
  if (after !== null) forget(after);
  const body = { session, content: text, model: $("model").value || null, after, ...settings.options() };
  after = null;
  notice("");
  const place = count;
  addQuestion(text);
  const answer = addAnswer(new Answer(retry));
  talk.scrollTop = talk.scrollHeight;
  asking = new AbortController();
  busy(true);
  say("The answer is being written.");
  try {
    await follow(answer, body);
    say("The answer is complete.");
  } catch (error) {
    if (error.name !== "AbortError") answer.fail(error.message);
    else answer.end("stopped");
    say(error.name === "AbortError" ? "Stopped." : error.message);
    // What has no answer at all the server has forgotten, too.
    if (!answer.text && !answer.thought && answer.node.isConnected) after = place;
    if (error instanceof Refused && error.status === 401) await askKey();
  }
  asking = null;
  busy(false);
  await tried(() => sidebar.refresh());
}

async function follow(answer, body) {
  for await (const event of events("/talk/ask", body, asking.signal)) {
    const near = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 80;
    if (event.session) go(event.session);
    if (event.thinking) answer.think(event.thinking);
    if (event.answer) answer.say(event.answer);
    if (event.end) tell(answer, event.end);
    if (near) requestAnimationFrame(() => (talk.scrollTop = talk.scrollHeight));
  }
}

function tell(answer, end) {
  const why = { length: " · cut at its limit", loop: " · it repeated itself", stop: "" }[end.reason] ?? "";
  answer.end(`${end.answer_tokens} tokens · ${end.tokens_per_s} per second · first after ${end.first_token_s} s${why}`);
  const share = Math.round((100 * end.context_used) / end.context);
  const left = end.left_out ? ` · the oldest ${end.left_out} messages no longer fit` : "";
  $("context").textContent = `${share} % of the context of ${end.context} tokens${left}`;
}

function busy(on) {
  $("send").hidden = on;
  $("stop").hidden = !on;
}

function grow() {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function showSidebar(on) {
  $("sidebar").classList.toggle("shown", on);
  $("open-sidebar").setAttribute("aria-expanded", String(on));
}

async function tried(act) {
  try {
    return await act();
  } catch (error) {
    if (error.status === 401) await askKey();
    else notice(error.message);
    return null;
  }
}

async function askKey() {
  if ($("key").open) return;
  $("key").showModal();
  await new Promise((resolve) => $("key").addEventListener("close", resolve, { once: true }));
  if (!$("key-value").value) return;
  useKey($("key-value").value);
  await start();
}

async function start() {
  const models = await tried(() => get("/v1/models"));
  if (!models) return;
  $("model").replaceChildren(...models.data.map(({ id }) => element("option", { value: id }, id)));
  await tried(() => sidebar.refresh());
  const name = decodeURIComponent(location.hash.slice(1));
  if (name && !asking) await open(name);
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || asking) return;
  field.value = "";
  grow();
  ask(text);
});
field.addEventListener("input", grow);
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("stop").addEventListener("click", () => asking?.abort());
$("new").addEventListener("click", begin);
$("open-sidebar").addEventListener("click", () => {
  showSidebar(true);
  $("new").focus();
});
$("close-sidebar").addEventListener("click", () => {
  showSidebar(false);
  $("open-sidebar").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if ($("sidebar").classList.contains("shown")) showSidebar(false);
  else asking?.abort();
});

settings.prepare();
field.focus();
await start();
