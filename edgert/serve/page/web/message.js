// Messages: a question, and an answer that grows.

import { copy } from "./clipboard.js";
import { element, render } from "./markdown.js";

function action(label, act) {
  const button = element("button", { type: "button" }, label);
  button.addEventListener("click", () => act(button));
  return button;
}

export function question(text, edit) {
  const body = element("div", { class: "body" }, text);
  const actions = element("div", { class: "actions" }, action("Edit", () => edit(text)));
  return element("article", { class: "question", "aria-label": "You" }, body, actions);
}

export class Answer {
  constructor(retry) {
    this.text = "";
    this.thought = "";
    this.began = performance.now();
    this.details = element("details", { hidden: "" });
    this.summary = element("summary", {}, "Thinking…");
    this.thoughtBody = element("div", { class: "thought" });
    this.details.append(this.summary, this.thoughtBody);
    this.body = element("div", { class: "body" }, element("p", { class: "dim" }, "Reading…"));
    this.told = element("span", { class: "dim" });
    this.actions = element("div", { class: "actions", hidden: "" });
    this.actions.append(action("Copy", (button) => copy(button, this.text)), action("Retry", retry), this.told);
    this.node = element("article", { class: "answer", "aria-label": "Answer" });
    this.node.append(this.details, this.body, this.actions);
    this.drawing = 0;
  }

  think(text) {
    this.thought += text;
    this.details.hidden = false;
    this.details.open = true;
    this.draw();
  }

  say(text) {
    if (!this.text && this.thought) this.fold();
    this.text += text;
    this.draw();
  }

  // Once per frame: a fast model writes more often than a screen shows.
  draw() {
    this.drawing ||= requestAnimationFrame(() => {
      this.drawing = 0;
      this.show();
    });
  }

  show() {
    this.thoughtBody.textContent = this.thought;
    this.body.replaceChildren(...render(this.text));
  }

  fold(seconds = Math.round((performance.now() - this.began) / 1000)) {
    this.details.open = false;
    this.summary.textContent = seconds === null ? "Thought" : `Thought for ${seconds} s`;
  }

  end(told) {
    this.show();
    this.told.textContent = told;
    this.actions.hidden = false;
  }

  fail(message) {
    this.end("");
    this.node.append(element("p", { class: "error" }, message));
  }

  static kept(message, retry) {
    const answer = new Answer(retry);
    answer.text = message.content ?? "";
    answer.thought = message.thinking ?? "";
    answer.details.hidden = !answer.thought;
    answer.fold(null);
    answer.end("");
    return answer;
  }
}
