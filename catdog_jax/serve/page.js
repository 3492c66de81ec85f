"use strict";
// One request a photo, a few at a time. Names and answers reach the page as text only.

const AT_ONCE = 6;
const byId = (id) => document.getElementById(id);
const asked = []; // of each photo: file, url, record (once answered), row
const waiting = [];
let running = 0;
let selected = null;
let told = -Infinity; // when progress was last told
let facts = { class_names: [], limits: { bytes: Infinity }, heat_maps: false };

// Asking.

async function load() {
  const host = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  byId("promise").textContent = host
    ? "Photos stay on this machine, and none is kept."
    : `Photos go to ${location.hostname} and nowhere else, and none is kept.`;
  try {
    facts = await (await fetch("healthz")).json();
  } catch {
    byId("status").textContent = unreachable;
    return;
  }
  const names = facts.class_names;
  if (names.length === 2) {
    const title = `${names[0]} or ${names[1]}?`;
    byId("title").textContent = title[0].toUpperCase() + title.slice(1);
  }
  document.title = byId("title").textContent;
  byId("about").textContent = `Answered by ${facts.about}.`;
}

const unreachable = "The server does not answer. Is catdog-jax serve still running?";
const unsent = "It could not be sent. Is it a file, and is catdog-jax serve still running?";

function add(files) {
  const first = asked.length;
  for (const file of files) {
    const one = { file, url: URL.createObjectURL(file), record: null, row: null };
    asked.push(one);
    waiting.push(one);
    addRow(one);
  }
  if (asked.length === first) return;
  select(asked[first]);
  byId("all").hidden = asked.length < 2;
  update();
  while (running < AT_ONCE && waiting.length) work();
}

async function work() {
  running += 1;
  while (waiting.length) {
    const one = waiting.shift();
    // Heat maps take time: many photos get theirs when they are looked at.
    one.record = await answerTo(one.file, one === selected);
    if (!asked.includes(one)) continue; // cleared meanwhile
    fillRow(one);
    if (one === selected) select(one);
    update();
  }
  running -= 1;
}

async function answerTo(file, explain) {
  await loaded;
  const name = file.name || "photo";
  if (file.size > facts.limits.bytes) {
    return { file: name, error: `it is larger than ${facts.limits.bytes / 1e6} MB` };
  }
  const query = new URLSearchParams({ file: name });
  if (explain && facts.heat_maps) query.set("explain", "1");
  for (;;) {
    try {
      const answer = await fetch(`predict?${query}`, { method: "POST", body: file });
      if (answer.status !== 503) return await answer.json();
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((done) => setTimeout(done, 1000 * seconds * (0.5 + Math.random())));
    } catch {
      return { file: name, error: unsent };
    }
  }
}

// Showing.

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const most = (record) => Math.max(...Object.values(record.probabilities));

function kind(record) {
  if (record.error) return "wrong";
  return record.sure ? "" : "unsure";
}

function inWords(record) {
  if (record.error) return "No answer";
  return record.sure ? `${record.class}, ${percent(most(record))}` : "Not sure";
}

function detail(record) {
  if (record.error) return record.error;
  const likeliest = `${record.class} is likeliest, with ${percent(most(record))}`;
  return record.sure ? record.file : `${record.file}: ${likeliest}`;
}

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = className;
  return made;
}

function bar(share) {
  const made = element("span", "", "bar");
  made.setAttribute("aria-hidden", "true"); // the text beside it says the same
  made.append(element("span"));
  made.firstChild.style.width = percent(share).replace(" ", "");
  return made;
}

async function select(one) {
  selected = one;
  for (const other of asked) {
    other.row.querySelector("button").setAttribute("aria-pressed", String(other === one));
  }
  show(one);
  const record = one.record;
  if (!record || record.error || record.heat_map || !facts.heat_maps) return;
  const explained = await answerTo(one.file, true);
  if (explained.error) return; // the answer itself is there
  one.record = explained;
  if (one === selected) show(one);
}

function show(one) {
  const record = one.record;
  byId("shown").hidden = false;
  byId("frame").hidden = false;
  byId("photo").src = one.url;
  byId("photo").alt = one.file.name ? `Photo: ${one.file.name}` : "Photo";
  byId("answer").textContent = record ? inWords(record) : "Looking …";
  byId("answer").className = record ? kind(record) : "";
  byId("detail").textContent = record ? detail(record) : one.file.name;
  const shares = Object.entries(record?.probabilities ?? {});
  byId("shares").hidden = !shares.length;
  byId("shares").replaceChildren(
    ...shares.map(([name, share]) => {
      const item = element("li");
      const line = element("span", "", "share");
      line.append(element("span", name), element("span", percent(share)));
      item.append(line, bar(share));
      return item;
    }),
  );
  const heat = record?.heat_map;
  byId("toggle").hidden = !heat;
  byId("heat").hidden = !heat || !byId("show-heat").checked;
  if (!heat) return;
  byId("heat").src = heat;
  byId("heat").alt = `Heat map over the photo: where it is yellow speaks most for ${record.class}`;
  byId("legend").textContent = `Yellow speaks most for ${record.class}.`;
}

function addRow(one) {
  one.row = element("tr");
  const button = element("button", "", "thumbnail");
  button.type = "button";
  button.setAttribute("aria-label", `Show ${one.file.name || "photo"}`);
  const image = element("img");
  image.alt = "";
  image.loading = "lazy";
  image.decoding = "async";
  image.src = one.url;
  image.addEventListener("error", () => (image.hidden = true)); // no photo, or no browser's format
  button.append(image);
  button.addEventListener("click", () => select(one));
  const cell = element("td");
  cell.append(button);
  one.row.append(cell, element("td", one.file.name), element("td", "…"), element("td"));
  byId("rows").append(one.row);
}

function fillRow(one) {
  const [, , answer, probability] = one.row.children;
  const record = one.record;
  answer.className = kind(record);
  if (record.error) {
    answer.textContent = record.error;
    answer.colSpan = 2;
    probability.remove();
    return;
  }
  answer.textContent = record.sure ? record.class : `not sure (${record.class})`;
  probability.replaceChildren(element("span", percent(most(record))), bar(most(record)));
}

function update() {
  const answered = asked.filter((one) => one.record);
  const all = asked.length;
  if (answered.length < all) {
    if (performance.now() - told < 2000) return; // screen readers read each change aloud
    told = performance.now();
    byId("status").textContent = `${answered.length} of ${all} photos answered`;
  } else if (all === 1) {
    const record = asked[0].record;
    byId("status").textContent = `${record.file}: ${inWords(record)}`;
  } else {
    byId("status").textContent = `${all} photos: ${counts(asked.map((one) => one.record))}`;
  }
}

function counts(records) {
  const found = new Map();
  for (const record of records) {
    const word = record.error ? "no answer" : record.sure ? record.class : "not sure";
    found.set(word, (found.get(word) ?? 0) + 1);
  }
  return [...found].map(([word, count]) => `${count} ${word}`).join(", ");
}

// Saving: the columns of `predict --csv`.

function csv() {
  const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
  const line = (cells) => cells.map((cell) => quoted(String(cell ?? ""))).join(",");
  const names = facts.class_names;
  const lines = [line(["file", "class", "sure", ...names, "error"])];
  for (const { record } of asked.filter((one) => one.record)) {
    const shares = names.map((name) => record.probabilities?.[name]);
    const sure = record.error ? "" : record.sure ? "True" : "False";
    lines.push(line([record.file, record.class, sure, ...shares, record.error]));
  }
  return lines.join("\n") + "\n";
}

function save() {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  for (const one of asked.splice(0)) URL.revokeObjectURL(one.url);
  waiting.length = 0;
  selected = null;
  byId("rows").replaceChildren();
  byId("shown").hidden = byId("all").hidden = true;
  byId("status").textContent = "Cleared";
  byId("choose").focus();
}

// What the user does.

for (const [button, input] of [["choose", "files"], ["take", "camera"]]) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // so that the same photo can be chosen again
  });
}
const drag = (event, over) => {
  event.preventDefault(); // else the browser would leave for the photo
  document.body.classList.toggle("over", over);
};
document.addEventListener("dragover", (event) => drag(event, true));
document.addEventListener("dragleave", (event) => drag(event, false));
document.addEventListener("drop", (event) => {
  drag(event, false);
  const files = event.dataTransfer.files;
  if (!files.length) byId("status").textContent = "That was no file: save the photo first.";
  add(files);
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
byId("photo").addEventListener("error", () => (byId("frame").hidden = true));
byId("show-heat").addEventListener("change", () => show(selected));
byId("save").addEventListener("click", save);
byId("clear").addEventListener("click", clear);
const loaded = load();
