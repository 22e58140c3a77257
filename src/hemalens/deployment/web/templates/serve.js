// Sends pictures to the server and shows its answers. Texts go in as text, never as markup; no other server is asked.
"use strict";

const $ = (id) => document.getElementById(id);
const MOST_BYTES = Number(document.body.dataset.bytes);
const GROUP = 8; // pictures in one request, so that answers come as they are ready
const GROUP_BYTES = 8 << 20;
const AT_ONCE = 2; // requests
const TRIES = 6; // while the server is busy
const TOKEN = "hemalens token"; // where the token is kept until the tab is closed
let rows = []; // the answers, in the order of the files
let classes = [];
let waiting = []; // groups of files that were not sent yet
let sending = 0;
let generation = 0; // of answers: what comes after a "Clear" is of no use any more

// ---------------------------------------------------------------- the server

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

let asking = null; // the question for the token, one for all requests that wait for it

// Ask for the token that the server wants, unless another one was given meanwhile; false where nobody gives it.
function askToken(used) {
  if ((sessionStorage.getItem(TOKEN) ?? "") !== used) return true;
  asking ??= new Promise((resolve) => {
    $("token-wrong").hidden = !used;
    $("token-dialog").returnValue = "";
    $("token-dialog").addEventListener("close", () => {
      const given = $("token-dialog").returnValue === "give" ? $("token").value.trim() : "";
      if (given) sessionStorage.setItem(TOKEN, given);
      $("token").value = "";
      asking = null;
      resolve(Boolean(given));
    }, { once: true });
    $("token-dialog").showModal();
  });
  return asking;
}

async function ask(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  for (let attempt = 1; ; attempt += 1) {
    const token = sessionStorage.getItem(TOKEN) ?? "";
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch("v1/predict?heat_maps=true", { method: "POST", body: form, headers });
    } catch {
      throw new Error("the server does not answer: is it still running, and is the file still there?");
    }
    if (response.status === 401 && await askToken(token)) continue;
    if ([429, 503].includes(response.status) && attempt < TRIES) {
      await pause(Number(response.headers.get("Retry-After")) || attempt);
      continue;
    }
    const said = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(said.error || `the server refuses (${response.status})`);
    return said;
  }
}

// ---------------------------------------------------------------- files in, answers out

function add(files) {
  const list = [...files];
  if (!list.length) return;
  $("answers").hidden = false;
  let group = [];
  let bytes = 0;
  const close = () => {
    if (group.length) waiting.push(group);
    [group, bytes] = [[], 0];
  };
  for (const file of list) {
    const card = element("li", { class: "card" });
    $("cards").append(card);
    const one = { file, cards: [card], rows: [] };
    rows.push(one);
    if (file.size > MOST_BYTES) {
      fail(one, `${file.name}: has ${file.size} bytes, the limit is ${MOST_BYTES}; cut it up or make it smaller`);
      continue;
    }
    pending(card, file.name);
    if (isZip(file)) {
      close();
      waiting.push([one]);
      continue;
    }
    if (group.length === GROUP || bytes + file.size > GROUP_BYTES) close();
    group.push(one);
    bytes += file.size;
  }
  close();
  tell();
  pump();
}

const isZip = (file) => /\.zip$/i.test(file.name) || file.type.includes("zip");

function pump() {
  while (sending < AT_ONCE && waiting.length) {
    sending += 1;
    send(waiting.shift(), generation).finally(() => {
      sending -= 1;
      tell();
      pump();
    });
  }
}

async function send(group, mine) {
  let said;
  try {
    said = await ask(group.map((one) => one.file));
  } catch (error) {
    if (mine !== generation) return;
    // One reason for several files helps nobody: ask for each alone.
    if (group.length > 1) for (const one of group) await send([one], mine);
    else fail(group[0], error.message);
    return;
  }
  if (mine !== generation) return;
  classes = said.classes;
  // One row for each picture, in order; only a zip, which is sent alone, has more.
  group.forEach((one, place) => fill(one, group.length === 1 ? said.predictions : [said.predictions[place]]));
  tell();
}

function fill(one, answers) {
  one.rows = answers;
  const cards = answers.map(draw);
  one.cards[0].replaceWith(...cards);
  one.cards = cards;
}

function fail(one, message) {
  const reason = `unreadable: ${message}`;
  fill(one, [{ sample_id: one.file.name, predicted: null, confidence: null, abstained: true, reason, error: message }]);
}

// ---------------------------------------------------------------- drawing

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function pending(card, name) {
  card.replaceChildren(element("p", { class: "name" }, name), element("p", { class: "quiet" }, "waiting…"));
}

function draw(row) {
  const name = element("p", { class: "name" }, row.sample_id);
  if (row.predicted === null) {
    const words = row.error || row.reason;
    return element("li", { class: "card failed" }, name, element("h3", {}, "Not read"), element("p", { class: "reason" }, words));
  }
  const card = element("li", { class: row.abstained ? "card refused" : "card" }, name);
  if (row.abstained) {
    card.append(element("h3", {}, "No answer"), element("p", { class: "reason" }, `${row.reason}; nearest: ${row.predicted}`));
  } else {
    card.append(element("h3", {}, `${row.predicted}, ${percent(row.confidence)}`));
  }
  const looks = element("div", { class: "looks" });
  const look = (address, words, caption) => looks.append(element("figure", {},
    element("img", { src: address, alt: words, decoding: "async" }), element("figcaption", {}, caption)));
  if (row.picture) look(row.picture, `Picture ${row.sample_id}`, `${row.width} × ${row.height} pixels`);
  if (row.heat_map) look(row.heat_map, `Heat map of ${row.sample_id}`, `speaks for ${row.predicted}`);
  if (looks.children.length) card.append(looks);
  card.append(bars(row));
  return card;
}

function bars(row) {
  const list = element("ul", { class: "bars", "aria-label": "Probabilities" });
  for (const name of classes) {
    const share = row[`p_${name}`];
    const fill = element("span", { class: "fill" });
    fill.style.setProperty("--share", share);
    list.append(element("li", name === row.predicted ? { class: "best" } : {},
      element("span", {}, name),
      element("span", { class: "track", "aria-hidden": "true" }, fill),
      element("span", { class: "value" }, percent(share))));
  }
  return list;
}

function say(text, wrong = false) {
  $("said").classList.toggle("wrong", wrong);
  $("said").textContent = text;
}

function tell() {
  const done = rows.filter((one) => one.rows.length);
  const answers = done.flatMap((one) => one.rows);
  const busy = done.length < rows.length;
  $("bar").hidden = !busy;
  $("bar").max = Math.max(rows.length, 1);
  $("bar").value = done.length;
  $("download").disabled = !answers.length || busy;
  $("clear").disabled = !rows.length;
  const unread = answers.filter((row) => row.predicted === null).length;
  const refused = answers.filter((row) => row.abstained).length - unread;
  if (rows.length) say(busy ? `${done.length} of ${rows.length} files answered…` : `${answers.length} pictures done.`);
  const counts = classes.map((name) => [name, answers.filter((row) => row.predicted === name && !row.abstained).length]);
  counts.push(["no answer", refused], ["not read", unread]);
  $("counts").textContent = counts.filter(([, number]) => number).map(([name, number]) => `${name}: ${number}`).join(", ");
}

// ---------------------------------------------------------------- the table

// What a spreadsheet would take for a formula is set apart by an apostrophe: the rules of core/spreadsheet.py.
function harmless(text) {
  return text.replace(/(^|[;\t\r\n])('*[-=+@\uff0d\uff1d\uff0b\uff20])/g, "$1'$2").replace(/^('*[\t\r\n])/, "'$1");
}

function cell(value) {
  if (typeof value !== "string") return String(value ?? "");
  const plain = harmless(value);
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}

function download() {
  const names = ["sample_id", "label", "predicted", "confidence", "abstained", "reason", ...classes.map((name) => `p_${name}`)];
  const lines = rows.flatMap((one) => one.rows).map((row) => names.map((name) => cell(row[name])).join(","));
  const text = [names.map(cell).join(","), ...lines, ""].join("\n");
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  element("a", { href: address, download: "predictions.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
  say(`predictions.csv holds ${lines.length} pictures.`);
}

function clear() {
  generation += 1;
  [rows, waiting] = [[], []];
  $("cards").replaceChildren();
  $("answers").hidden = true;
  tell();
  say("Nothing is left here.");
  $("choose").focus();
}

// ---------------------------------------------------------------- mouse, keys, clipboard

for (const [button, input] of [["choose", "files"], ["photograph", "camera"]]) {
  $(button).addEventListener("click", () => $(input).click());
  $(input).addEventListener("change", () => {
    add($(input).files);
    $(input).value = ""; // so that the same file can be chosen again
  });
}
$("download").addEventListener("click", download);
$("clear").addEventListener("click", clear);

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, dialog")) return;
  const button = { o: $("choose"), d: $("download"), x: $("clear") }[event.key];
  if (!button || button.disabled) return;
  event.preventDefault();
  button.click();
});
document.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));

let depth = 0; // a drag enters a child before it leaves its parent
const over = (change) => {
  depth = change ? Math.max(depth + change, 0) : 0;
  document.body.classList.toggle("over", depth > 0);
};
document.addEventListener("dragenter", () => over(1));
document.addEventListener("dragleave", () => over(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  over(0);
  add(event.dataTransfer.files);
});
