// Fills the review page. Texts go in as text, never as markup; nothing is asked of any other server.
"use strict";

const $ = (id) => document.getElementById(id);
const RELABEL = "relabel:";
const CLASSES = [...document.querySelectorAll("#relabel [data-label]")];
let page = null; // what the server said last: items, total, first, previous, next, counts
let cards = []; // the cards on the page, in order
let current = 0; // place in cards
const SAVING = "saving…";
let unsaved = 0; // decisions that the server has not confirmed
let waiting = Promise.resolve(); // requests go one after the other, in the order of the keys

// ---------------------------------------------------------------- the server

async function ask(address, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("the review server does not answer: start the command again and open the address it prints; "
      + "every decision that was confirmed here is kept");
  }
  const said = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(said.error || `the server refuses (${response.status})`);
  return said;
}

// What takes longer than a blink says so.
function inTurn(work, words = "loading…") {
  const saves = words === SAVING;
  if (saves) unsaved += 1;
  const slow = setTimeout(() => say(words), 200);
  waiting = waiting.then(work).catch((error) => say(`Not done: ${error.message}`, true)).finally(() => {
    clearTimeout(slow);
    if (saves) unsaved -= 1;
    if ($("said").textContent === words) say("");
  });
  return waiting;
}

function say(text, wrong = false) {
  const line = $("said");
  line.classList.toggle("wrong", wrong);
  line.textContent = text;
}

// ---------------------------------------------------------------- drawing

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function verdict(decision) {
  if (decision === "keep") return ["kept", "kept"];
  if (decision === "drop") return ["dropped", "dropped"];
  if (decision.startsWith(RELABEL)) return ["turned", `relabelled ${decision.slice(RELABEL.length)}`];
  return ["", "undecided"];
}

function mark(card, decision) {
  card.item.decision = decision;
  const item = card.item;
  const [style, words] = verdict(decision);
  card.classList.remove("kept", "dropped", "turned");
  if (style) card.classList.add(style);
  card.querySelector(".verdict").textContent = decision ? words : "";
  for (const button of card.querySelectorAll("[data-act]")) {
    const act = button.dataset.act;
    button.setAttribute("aria-pressed", String(decision === act || decision.startsWith(`${act}:`)));
  }
  const group = item.group_size > 1 ? `, one of a group of ${item.group_size}` : "";
  card.setAttribute("aria-label", `${item.sample_id}, labelled ${item.label ?? "nothing"}, ${item.title}${group}, `
    + `suggested: ${item.suggestion}, ${words}`);
}

function draw(item) {
  const picture = element("button", { type: "button", class: "look", tabindex: "-1", "aria-label": `Enlarge ${item.sample_id}` });
  const lost = () => {
    picture.replaceChildren("no picture");
    picture.classList.add("lost");
    picture.disabled = true;
  };
  if (item.readable) {
    const image = element("img", { src: `picture/${item.place}`, alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", lost);
    picture.append(image);
  } else lost();
  const certainty = item.score === null ? "" : `, certainty ${item.score}`;
  const finding = $("issue").value || item.group_size > 1 ? "" : `${item.title}: `;
  const acts = element("div", { class: "acts" });
  for (const [act, words] of [["keep", "Keep"], ["drop", "Drop"], ["relabel", "Relabel"]]) {
    const button = element("button", { type: "button", "data-act": act, tabindex: "-1" }, words);
    button.disabled = act !== "drop" && !item.readable || act === "relabel" && CLASSES.length === 0;
    acts.append(button);
  }
  const card = element("li", { class: "card", tabindex: "-1", role: "group", "data-id": item.sample_id },
    picture,
    element("p", { class: "name" }, item.sample_id),
    element("p", { class: "label" }, item.label ?? "no label"),
    element("p", { class: "reason" }, `${finding}${item.suggestion} suggested${certainty}: ${item.reason}`),
  );
  if (item.others.length) card.append(element("p", { class: "reason" }, `also: ${item.others.join(", ")}`));
  card.append(element("p", { class: "verdict" }), acts);
  card.item = item;
  mark(card, item.decision);
  return card;
}

function headOf(item, shown) {
  const part = shown < item.group_size ? `, ${shown} of them here` : "";
  const head = element("div", { class: "head" },
    element("h2", {}, `${item.title}: group of ${item.group_size}${part}`));
  for (const [decision, words] of [["keep", "Keep all"], ["drop", "Drop all"]]) {
    const button = element("button", { type: "button" }, `${words} ${item.group_size}`);
    button.addEventListener("click", () => decideGroup(item, decision));
    head.append(button);
  }
  return head;
}

function fill(said) {
  page = said;
  cards = said.items.map(draw);
  const sections = [];
  for (let from = 0; from < cards.length;) {
    const { issue, group, group_size } = cards[from].item;
    let to = from + 1;
    const grouped = group && group_size > 1;
    const together = (one) => grouped ? one.issue === issue && one.group === group : !(one.group && one.group_size > 1);
    while (to < cards.length && together(cards[to].item)) to += 1;
    const section = element("section", grouped ? { class: "group" } : {});
    if (grouped) section.append(headOf(cards[from].item, to - from));
    section.append(element("ul", { class: "cards" }, ...cards.slice(from, to)));
    sections.push(section);
    from = to;
  }
  const chosen = $("issue").selectedOptions[0];
  const meaning = chosen.dataset.meaning ? [element("p", { class: "meaning" }, chosen.dataset.meaning)] : [];
  const nothing = cards.length ? [] : [element("p", { class: "meaning" }, "No finding here. Choose another one above, or finish.")];
  $("cards").replaceChildren(...meaning, ...sections, ...nothing);
  $("range").textContent = cards.length ? `${said.first + 1} to ${said.first + cards.length} of ${said.total}` : "none";
  $("previous").disabled = said.previous === null;
  $("next").disabled = said.next === null;
  current = 0;
  if (cards.length) point(0);
  count(said.counts);
}

function count(counts) {
  $("bar").max = Math.max(counts.samples, 1);
  $("bar").value = counts.decided;
  $("count").textContent = `${counts.decided} of ${counts.samples} samples decided`;
  $("undo").disabled = counts.undoable === 0;
  for (const option of $("issue").options) {
    const of = counts.issues[option.value];
    option.textContent = of ? `${option.dataset.title} (${of.decided}/${of.findings})` : option.dataset.title;
  }
}

// ---------------------------------------------------------------- going about

// What is shown stands behind the # of the address, so that a reload shows it again.
function remember(start, backwards) {
  const words = new URLSearchParams({ issue: $("issue").value, show: $("show").value, start, backwards });
  history.replaceState(null, "", `#${words}`);
}

function load(start = 0, backwards = false, last = false) {
  return inTurn(async () => {
    const words = new URLSearchParams({ issue: $("issue").value, show: $("show").value, start, backwards });
    fill(await ask(`api/findings?${words}`));
    remember(start, backwards);
    if (cards.length && !["SELECT", "BUTTON"].includes(document.activeElement?.tagName)) go(last ? cards.length - 1 : 0);
  });
}

function turn(forward) {
  if (!page) return;
  const start = forward ? page.next : page.previous;
  if (start === null) return say(forward ? "This is the last page." : "This is the first page.");
  window.scrollTo({ top: 0 });
  document.activeElement?.blur();
  load(start, !forward);
}

function go(place) {
  if (!cards.length) return;
  point(Math.min(Math.max(place, 0), cards.length - 1));
  cards[current].focus();
}

// Tab reaches one card and its buttons; the arrow keys choose which.
function point(place) {
  for (const [one, index] of [[cards[current], -1], [cards[place], 0]]) {
    one.tabIndex = index;
    for (const button of one.querySelectorAll("button")) button.tabIndex = index;
  }
  current = place;
}

function vertically(step) {
  const here = cards[current].getBoundingClientRect();
  const middle = (here.left + here.right) / 2;
  let best = null;
  for (let place = current + step; place >= 0 && place < cards.length; place += step) {
    const box = cards[place].getBoundingClientRect();
    if (Math.abs(box.top - here.top) < 4) continue; // the same row
    if (best && Math.abs(box.top - best.top) >= 4) break; // a row farther
    const away = Math.abs((box.left + box.right) / 2 - middle);
    if (!best || away < best.away) best = { place, away, top: box.top };
  }
  if (best) go(best.place);
}

// ---------------------------------------------------------------- deciding

function apply(said) {
  for (const card of cards) {
    const decision = said.decisions[card.item.place];
    if (decision !== undefined) mark(card, decision);
  }
  count(said.counts);
}

function decide(card, decision) {
  const item = card.item;
  if (!item.readable && decision !== "drop") return say(`${item.sample_id} is unreadable: it can only be dropped.`, true);
  const last = cards.indexOf(card) === cards.length - 1;
  if (card.contains(document.activeElement) || document.activeElement === document.body) go(cards.indexOf(card) + 1);
  inTurn(async () => {
    apply(await ask("api/decide", { decisions: { [item.place]: decision } }));
    const more = last && page.next !== null ? " That was the last one here: n for the next page." : "";
    say(`${item.sample_id}: ${verdict(decision)[1]}.${more}`);
  }, SAVING);
}

function decideGroup(item, decision, only = null) {
  if (!item.group || item.group_size < 2) return say(`${item.sample_id} stands alone: it is in no group.`);
  inTurn(async () => {
    const said = await ask("api/group", { issue: item.issue, group: item.group, decision, only });
    apply(said);
    const number = Object.keys(said.decisions).length;
    say(only === null ? `Group of ${number}: ${verdict(decision)[1]}.`
      : `${item.sample_id}: kept, the other ${number - 1} of its group dropped.`);
  }, SAVING);
}

function undo() {
  inTurn(async () => {
    const said = await ask("api/undo", {});
    apply(said);
    const number = Object.keys(said.decisions).length;
    if (!number) return say("There is nothing to undo.");
    const where = cards.findIndex((card) => card.item.place in said.decisions);
    if (where >= 0) go(where);
    const others = number > 1 ? ` and ${number - 1} more` : "";
    say(`Undone: ${said.names[0]}${others}${where < 0 ? " (not on this page)" : ""}.`);
  }, SAVING);
}

let turning = null; // the card that is being relabelled
let digits = "";

function relabel(card) {
  if (!card.item.readable) return say(`${card.item.sample_id} is unreadable: it can only be dropped.`, true);
  turning = card;
  digits = "";
  $("typed").textContent = "";
  $("relabel-what").textContent = `${card.item.sample_id}, labelled ${card.item.label ?? "nothing"}`;
  $("relabel").showModal();
  CLASSES[0]?.focus();
}

function choose(button) {
  $("relabel").close(); // the browser gives the focus back to the card
  decide(turning, RELABEL + button.dataset.label);
}

function typeNumber(event) {
  const here = CLASSES.indexOf(document.activeElement);
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (step && CLASSES.length) {
    CLASSES[(here + step + CLASSES.length) % CLASSES.length].focus();
  } else if (/^[0-9]$/.test(event.key)) {
    digits += event.key;
    const number = Number(digits);
    if (number >= CLASSES.length) digits = "";
    else if (digits.length > 1 || number * 10 >= CLASSES.length || number === 0) return event.preventDefault(), choose(CLASSES[number]);
    else CLASSES[number].focus(); // 1 may become 12: another digit or Enter
    $("typed").textContent = digits;
  } else return;
  event.preventDefault();
}

async function finish() {
  await inTurn(async () => {
    const said = await ask("api/finish", {});
    const kept = `${said.kept} kept, ${said.relabelled} of them under another label`;
    $("done-counts").textContent = `${kept}; ${said.dropped} dropped. The decisions are in issues.csv. Next:`;
    $("done-command").textContent = said.command;
    $("done").showModal();
  }, SAVING);
}

function enlarge(card) {
  if (!card.item.readable) return;
  $("large-title").textContent = card.item.sample_id;
  $("large-picture").alt = `${card.item.sample_id}, labelled ${card.item.label ?? "nothing"}`;
  $("large-picture").src = `picture/${card.item.place}?large=true`;
  $("large").showModal();
}

// ---------------------------------------------------------------- keys and mouse

const KEYS = {
  ArrowLeft: () => go(current - 1), ArrowRight: () => go(current + 1),
  ArrowUp: () => vertically(-1), ArrowDown: () => vertically(1),
  Home: () => go(0), End: () => go(cards.length - 1),
  k: (card) => decide(card, "keep"), d: (card) => decide(card, "drop"), r: relabel,
  K: (card) => decideGroup(card.item, "keep"), D: (card) => decideGroup(card.item, "drop"),
  o: (card) => decideGroup(card.item, "drop", card.item.place),
};
const ANYWHERE = { u: undo, n: () => turn(true), p: () => turn(false), "?": () => $("keys").showModal() };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("select")) return;
  const key = event.shiftKey && /^[a-z]$/.test(event.key) ? event.key.toUpperCase() : event.key;
  const card = cards[current];
  if (key === "Enter" && event.target === card) enlarge(card);
  else if (Object.hasOwn(ANYWHERE, key)) ANYWHERE[key]();
  else if (Object.hasOwn(KEYS, key) && card) KEYS[key](card);
  else return;
  event.preventDefault();
});

$("cards").addEventListener("focusin", (event) => {
  const card = event.target.closest(".card");
  if (card) point(cards.indexOf(card));
});

$("cards").addEventListener("click", (event) => {
  const card = event.target.closest(".card");
  if (!card) return;
  const act = event.target.closest("[data-act]")?.dataset.act;
  if (act === "relabel") relabel(card);
  else if (act) decide(card, act);
  else if (event.target.closest(".look:not(.lost)")) enlarge(card);
  else card.focus();
});

window.addEventListener("beforeunload", (event) => {
  if (unsaved) event.preventDefault(); // the browser asks whether to leave
});
$("issue").addEventListener("change", () => load());
$("show").addEventListener("change", () => load());
$("undo").addEventListener("click", undo);
$("help").addEventListener("click", () => $("keys").showModal());
$("finish").addEventListener("click", finish);
$("previous").addEventListener("click", () => turn(false));
$("next").addEventListener("click", () => turn(true));
$("relabel").addEventListener("keydown", typeNumber);
for (const button of CLASSES) button.addEventListener("click", () => choose(button));
for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

{
  const words = new URLSearchParams(location.hash.slice(1));
  for (const id of ["issue", "show"]) {
    if ([...$(id).options].some((option) => option.value === words.get(id))) $(id).value = words.get(id);
  }
  load(Number(words.get("start")) || 0, words.get("backwards") === "true");
  inTurn(() => page && say("Keys: k keep, d drop, r relabel, u undo, ? all of them."));
}
