// Sidebar: the conversations that are kept.

import { get, post } from "./api.js";
import { element } from "./markdown.js";

const UNDO_MS = 6000;
const place = document.getElementById("sessions");
const shown = (name) => name.replaceAll("-", " ");

export class Sidebar {
  constructor({ open, removed, renamed, notice }) {
    Object.assign(this, { open, removed, renamed, notice });
    this.current = null;
    this.leaving = new Set();
  }

  async refresh() {
    this.list = (await get("/sessions")).sessions;
    this.draw();
  }

  choose(name) {
    this.current = name;
    this.draw();
  }

  draw() {
    const there = (this.list ?? []).filter(({ name }) => !this.leaving.has(name));
    place.replaceChildren(...there.map(({ name }) => this.item(name)));
  }

  item(name) {
    const open = element("button", { type: "button", class: "open", title: shown(name) }, shown(name));
    if (name === this.current) open.setAttribute("aria-current", "true");
    open.addEventListener("click", () => this.open(name));
    const rename = element("button", { type: "button", class: "icon", "aria-label": `Rename ${shown(name)}` }, "✎");
    rename.addEventListener("click", () => this.rename(name));
    const remove = element("button", { type: "button", class: "icon", "aria-label": `Delete ${shown(name)}` }, "✕");
    remove.addEventListener("click", () => this.remove(name));
    return element("li", {}, open, rename, remove);
  }

  async rename(name) {
    const wanted = prompt("A name for this conversation", shown(name));
    const to = wanted?.trim().replace(/\s+/g, "-");
    if (!to || to === name) return;
    try {
      await post("/talk/rename", { session: name, to });
      this.renamed(name, to);
    } catch (error) {
      this.notice(error.message);
    }
    await this.refresh();
  }

  // Nothing is removed before the time to undo it is over.
  remove(name) {
    this.leaving.add(name);
    this.draw();
    this.removed(name);
    const finish = async () => {
      this.leaving.delete(name);
      try {
        await post("/talk/remove", { session: name });
      } catch (error) {
        this.notice(error.message);
      }
      await this.refresh();
    };
    const timer = setTimeout(finish, UNDO_MS);
    this.notice(`“${shown(name)}” is deleted.`, "Undo", () => {
      clearTimeout(timer);
      this.leaving.delete(name);
      this.draw();
    });
  }
}
