// Settings: kept by this browser.

const KEPT = "edgert-settings";
const FIELDS = ["system", "temperature", "max_tokens", "thinking", "theme"];
const field = (name) => document.getElementById(name);

function kept() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

function keep() {
  const table = Object.fromEntries(FIELDS.map((name) => [name, field(name).value]));
  localStorage.setItem(KEPT, JSON.stringify(table));
  document.documentElement.dataset.theme = table.theme;
}

export function prepare() {
  const table = kept();
  for (const name of FIELDS) {
    field(name).value = table[name] ?? "";
    field(name).addEventListener("change", keep);
  }
  document.documentElement.dataset.theme = table.theme ?? "";
  field("open-settings").addEventListener("click", () => field("settings").showModal());
}

// What a question is asked with; what is left empty is the model's own.
export function options() {
  const asked = {};
  if (field("system").value.trim()) asked.system = field("system").value;
  if (field("temperature").value) asked.temperature = Number(field("temperature").value);
  if (field("max_tokens").value) asked.max_tokens = Number(field("max_tokens").value);
  if (field("thinking").value) asked.thinking = field("thinking").value === "on";
  return asked;
}
