// Copying, also where the page came by plain http from another machine: browsers keep the clipboard from it then.

export async function copy(button, text) {
  const copied = navigator.clipboard ? await written(text) : selected(text);
  button.textContent = copied ? "Copied" : "Can't copy here";
}

function written(text) {
  return navigator.clipboard.writeText(text).then(() => true, () => false);
}

// The older way: a selection, and the browser's own command.
function selected(text) {
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "aside";
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}
