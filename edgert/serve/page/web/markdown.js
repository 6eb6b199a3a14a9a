// Markdown to nodes. Text becomes text nodes only: nothing that a model writes is ever markup that can run.

import { copy } from "./clipboard.js";

const INLINE = /(`+)([^`]+?)\1|\*\*([^*]+?)\*\*|\*([^*\s][^*]*?)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;
const FENCE = /^\s{0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const ITEM = /^(\s*)([-*+]|\d+[.)])\s+(.*)$/;
const RULE = /^\s*\|?[\s:|-]+\|[\s:|-]*$/;

export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

export function inline(text) {
  const nodes = [];
  let from = 0;
  for (const found of text.matchAll(INLINE)) {
    nodes.push(text.slice(from, found.index));
    const [, , code, strong, soft, label, address] = found;
    if (code !== undefined) nodes.push(element("code", {}, code));
    else if (strong !== undefined) nodes.push(element("strong", {}, ...inline(strong)));
    else if (soft !== undefined) nodes.push(element("em", {}, ...inline(soft)));
    else nodes.push(element("a", { href: address, rel: "noopener noreferrer", target: "_blank" }, label));
    from = found.index + found[0].length;
  }
  nodes.push(text.slice(from));
  return nodes.filter((node) => node !== "");
}

export function render(text) {
  const lines = text.split("\n");
  const nodes = [];
  while (lines.length) {
    const fence = lines[0].match(FENCE);
    if (fence) nodes.push(fenced(lines, fence[1], fence[2]));
    else if (!lines[0].trim()) lines.shift();
    else if (HEADING.test(lines[0])) nodes.push(heading(lines.shift()));
    else if (ITEM.test(lines[0])) nodes.push(list(lines));
    else if (lines[0].includes("|") && RULE.test(lines[1] ?? "")) nodes.push(table(lines));
    else if (/^\s*>/.test(lines[0])) nodes.push(quote(lines));
    else nodes.push(paragraph(lines));
  }
  return nodes;
}

function fenced(lines, mark, language) {
  lines.shift();
  const code = [];
  while (lines.length && !lines[0].trim().startsWith(mark)) code.push(lines.shift());
  lines.shift();
  const button = element("button", { type: "button", class: "icon copy-code" }, "Copy");
  button.addEventListener("click", () => copy(button, code.join("\n")));
  const head = element("header", {}, element("span", {}, language || "code"), button);
  const block = element("pre", { tabindex: "0" }, element("code", {}, code.join("\n")));
  return element("div", { class: "fence" }, head, block);
}

function heading(line) {
  const [, marks, text] = line.match(HEADING);
  return element(`h${Math.min(marks.length + 2, 5)}`, {}, ...inline(text));
}

function list(lines) {
  const [, indent, mark] = lines[0].match(ITEM);
  const ordered = /\d/.test(mark);
  const start = ordered ? { start: String(parseInt(mark, 10)) } : {};
  const node = element(ordered ? "ol" : "ul", start);
  while (lines.length) {
    const item = lines[0].match(ITEM);
    if (item && item[1].length > indent.length && node.lastElementChild) {
      node.lastElementChild.append(list(lines));
    } else if (item && item[1].length === indent.length && /\d/.test(item[2]) === ordered) {
      lines.shift();
      node.append(element("li", {}, ...inline(item[3])));
    } else if (!item && /^\s{2,}\S/.test(lines[0]) && node.lastElementChild) {
      node.lastElementChild.append(" ", ...inline(lines.shift().trim()));
    } else {
      break;
    }
  }
  return node;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (line, name) => element("tr", {}, ...cells(line).map((c) => element(name, {}, ...inline(c))));
  const head = element("thead", {}, row(lines.shift(), "th"));
  lines.shift();
  const body = element("tbody");
  while (lines.length && lines[0].includes("|")) body.append(row(lines.shift(), "td"));
  return element("table", {}, head, body);
}

function quote(lines) {
  const inner = [];
  while (lines.length && /^\s*>/.test(lines[0])) inner.push(lines.shift().replace(/^\s*>\s?/, ""));
  return element("blockquote", {}, ...render(inner.join("\n")));
}

function paragraph(lines) {
  const text = [lines.shift()];
  while (lines.length && lines[0].trim() && ![FENCE, HEADING, ITEM].some((kind) => kind.test(lines[0]))) {
    text.push(lines.shift());
  }
  const parts = text.flatMap((line, number) => [...(number ? [element("br")] : []), ...inline(line)]);
  return element("p", {}, ...parts);
}
