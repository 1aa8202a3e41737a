// The owner's page. It asks the car that it came from, and nobody else. Every text stands in texts.json.
"use strict";

// Between two looks at how things stand, while the page is seen.
const LOOK = 2000;
// A car that has not answered by then does not answer.
const PATIENCE = 65000;
// Between two tries of a code, and a little more.
const GAP = 1100;
const MARK = { "x-kerbside": "page" };

let texts = {};
let signedIn = false;
let looking = null;
let withdrawn = false;
let oldest = null;
// What the owner is asked about: a kind of work to take back, or null for all; and what would be agreed to.
let takingBack = null;
let wish = null;
// What had the focus when something went wrong: it gets it back.
let interrupted = null;

const at = (id) => document.getElementById(id);

/// A text, with what goes into its places.
function text(name, ...parts) {
  return texts[name].replace(/\{(\d)\}/g, (_, place) => parts[Number(place)]);
}

/// A text for a word of the agent's; a word that is new is shown as it is.
function word(kind, name) {
  return texts[kind + "." + name] ?? name;
}

/// Shows a text. One that is there already is left alone: a screen reader says what changes.
function show(element, says) {
  if (element.textContent !== says) element.textContent = says;
}

function item(says, kind = "li") {
  const element = document.createElement(kind);
  element.textContent = says;
  return element;
}

function fill(list, items) {
  const same = list.children.length === items.length
    && items.every((one, place) => one.textContent === list.children[place].textContent);
  if (!same) list.replaceChildren(...items);
}

function sentence(says) {
  return says.charAt(0).toLowerCase() === says.charAt(0) ? says.charAt(0).toUpperCase() + says.slice(1) : says;
}

const moment = (stamp) => new Date(stamp).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

function span(ms) {
  const seconds = ms / 1000;
  const number = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 1 });
  if (seconds < 90) return text("said.seconds", number(seconds));
  if (seconds < 5400) return text("said.minutes", number(seconds / 60));
  return text("said.hours", number(seconds / 3600));
}

function bytes(count) {
  const unit = count < 1e3 ? ["byte", 1] : count < 1e6 ? ["kilobyte", 1e3] : ["megabyte", 1e6];
  return (count / unit[1]).toLocaleString(undefined, { style: "unit", unit: unit[0], maximumFractionDigits: 1 });
}

function money({ currency, micro }) {
  try {
    return (micro / 1e6).toLocaleString(undefined, { style: "currency", currency, maximumFractionDigits: 6 });
  } catch {
    return micro / 1e6 + " " + currency;
  }
}

const kilowattHours = (joules) => (joules / 3.6e6).toLocaleString(undefined, { maximumFractionDigits: 3 });

/// Sends the car a request, and returns its answer. What it refuses is thrown as a sentence.
async function send(method, path, body) {
  let answer;
  try {
    answer = await fetch("/api/v1/" + path, {
      method,
      headers: method === "GET" ? {} : { ...MARK, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.timeout(PATIENCE),
    });
  } catch {
    throw new Error(text("wrong.unreached"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) {
    leave();
    throw null;
  }
  const told = await answer.json().catch(() => ({}));
  const why = told.error ?? answer.status;
  const wrong = new Error(answer.status === 409 ? text("wrong.part", why) : text("wrong.refused", why));
  wrong.status = answer.status;
  throw wrong;
}

/// Asks the car, and returns what it tells.
async function ask(method, path, body) {
  const answer = await send(method, path, body);
  return answer.json().catch(() => ({}));
}

/// Says what went wrong, until the owner does something else or puts it away; nothing: all is well.
function complain(why) {
  if (why) interrupted = document.activeElement;
  const putAway = !why && document.activeElement === at("wrong-close");
  show(at("wrong"), why);
  at("wrong-close").hidden = !why;
  if (!putAway) return;
  interrupted?.focus();
  // What is not there any more takes no focus.
  if (document.activeElement !== interrupted) at(signedIn ? "now-title" : "code").focus();
}

/// Does what the owner wants, and says what went wrong if something did. Looking at how things stand does not take that away.
async function attempt(deed) {
  complain("");
  try {
    return await deed() ?? true;
  } catch (error) {
    // Who was signed out sees that.
    if (error !== null) complain(error.message);
    return false;
  }
}

/// Looks at how things stand. What goes wrong in that is said in a place of its own, for as long as it does.
async function glance(look) {
  try {
    await look();
    show(at("unseen"), "");
    return true;
  } catch (error) {
    show(at("unseen"), error === null ? "" : error.message);
    return false;
  }
}

function leave() {
  const was = signedIn;
  signedIn = false;
  at("page").hidden = true;
  at("door").hidden = false;
  if (at("sure").open) at("sure").close();
  if (was) at("code").focus();
}

function enter() {
  signedIn = true;
  at("door").hidden = true;
  at("page").hidden = false;
}

function showStatus({ status }) {
  const working = status.standing === "available" && status.attempts > 0;
  show(at("standing"), working ? text("now.working") : word("standing", status.standing));
  show(at("why"), status.whyNot ? text("now.because", status.whyNot) : "");
  const paused = status.command === "pause";
  at("until").hidden = !paused;
  show(at("until"), !paused ? "" : status.pausedUntil ? text("now.until", moment(status.pausedUntil)) : text("now.open"));
  const linked = status.link === "connected";
  show(at("link"), linked ? text("now.linked") : text("now.unlinked", status.link));
  const focus = document.activeElement;
  at("pauses").hidden = paused || status.command === "withdraw";
  at("resume").hidden = !paused;
  // What had the focus is gone: it goes to what takes its place.
  if (paused && at("pauses").contains(focus)) at("resume").focus();
  if (!paused && focus === at("resume")) at(at("pauses").hidden ? "now-title" : "pause-hour").focus();
  const held = status.held.map((one) =>
    item(text("runs.one", one.images.join(", "), one.class, one.state)));
  fill(at("runs"), held.length > 0 ? held : [item(text("runs.none"))]);
  const visits = status.visits.map(visited).reverse();
  fill(at("visits"), visits.length > 0 ? visits : [item(text("visits.none"))]);
  fill(at("factors"), status.factors.map(([factor, value]) => item(text("factors.one", sentence(factor), value))));
  showConsents(status.consents);
  if (withdrawn !== (status.command === "withdraw")) {
    withdrawn = !withdrawn;
    glance(lookAtTerms);
  }
}

/// Somebody from elsewhere who is, was or wanted to be in the car's work.
function visited({ user, pod, what, from, to, refused }) {
  if (refused) return item(text("visits.refused", moment(from), user, pod, what, refused));
  if (to) return item(text("visits.was", moment(from), moment(to), user, pod, what));
  return item(text("visits.is", moment(from), user, pod, what));
}

function showConsents({ purposes, trouble }) {
  at("consents-trouble").hidden = !trouble;
  show(at("consents-trouble"), trouble ? text("consents.trouble", trouble) : "");
  const consents = purposes.map(({ purpose, holds, says }) => {
    const entry = item(holds ? text("consents.holds", purpose, says) : text("consents.lacks", purpose, says));
    if (holds) {
      const back = item(text("consents.back", purpose), "button");
      back.type = "button";
      back.className = "grave";
      back.addEventListener("click", () => sure(purpose));
      entry.append(document.createElement("br"), back);
    }
    return entry;
  });
  const had = at("consents").contains(document.activeElement);
  fill(at("consents"), consents.length > 0 ? consents : [item(text("consents.none"))]);
  if (had && !at("consents").contains(document.activeElement)) at("terms-title").focus();
}

async function lookAtRecords() {
  const told = await ask("GET", "consents");
  const events = told.records.flatMap((record) => record.events.map((event) =>
    item(text("records.one", record.purpose, word("event", event.event_state), moment(event.event_time)))));
  fill(at("records"), [...(events.length > 0 ? events : [item(text("consents.none"))]), ...told.findings.map((one) => item(one))]);
}

/// Asks whether to take back the consent to a kind of work, or, without one, all.
function sure(purpose) {
  takingBack = purpose;
  show(at("sure-title"), purpose === null ? text("sure.title") : text("sure.titleOne", purpose));
  show(at("sure-help"), purpose === null ? text("sure.help") : text("sure.helpOne"));
  at("sure").showModal();
}

async function look() {
  showStatus(await ask("GET", "status"));
}

async function lookAtTerms() {
  const told = await ask("GET", "policy");
  at("problem").hidden = !told.problem && !withdrawn;
  show(at("problem"), withdrawn ? text("terms.withdrawn") : told.problem ? text("terms.problem", told.problem) : "");
  const says = told.says.map((one) => item(one));
  fill(at("says"), says.length > 0 ? says : [item(text("terms.none"))]);
  fill(at("doubts"), told.doubts.map((one) => item(text("terms.doubt", one))));
  if (at("profiles").children.length === 0) {
    at("profiles").replaceChildren(...told.profiles.map(choice));
    at("classes").value = told.classes.join(" ");
  }
}

function choice(profile, place) {
  const row = document.createElement("div");
  row.className = "choice";
  const radio = document.createElement("input");
  radio.type = "radio";
  radio.name = "profile";
  radio.id = "profile-" + profile.name;
  radio.value = profile.name;
  radio.checked = place === 0;
  radio.dataset.hours = profile.hasHours ? "yes" : "";
  const label = item(texts["profile." + profile.name] ?? profile.line, "label");
  label.htmlFor = radio.id;
  row.append(radio, label);
  return row;
}

function sums(name, told) {
  const most = told.most.map(money).join(", ");
  const lines = [most ? text("earned.most", most) : text("earned.nothing")];
  if (told.count > 0) {
    lines.push(text("earned.count", told.count, span(told.cpuMs)));
    if (told.unpriced > 0) lines.push(text("earned.unpriced", told.unpriced));
    lines.push(told.joules === null
      ? text("earned.unmeasured")
      : text("earned.energy", kilowattHours(told.joules), told.measured, told.count));
    if (told.cost) lines.push(text("earned.cost", money(told.cost)), text("earned.left", money(told.left)));
    else if (told.joules !== null) lines.push(text("earned.noTariff"));
  }
  return [item(name, "dt"), ...lines.map((line) => item(line, "dd"))];
}

async function lookAtEarnings() {
  const told = await ask("GET", "earnings");
  const unwell = told.well ? [] : [item(text("earned.unwell"), "dd")];
  at("earned").replaceChildren(
    ...sums(text("earned.lately"), told.lately), ...sums(text("earned.ever"), told.ever), ...unwell);
}

function done(one) {
  const entry = item(text("history.one", one.endedAt ? moment(one.endedAt) : one.sequence, one.class, word("outcome", one.outcome)));
  const more = [text("history.used", span(one.cpuMs), bytes(one.outputBytes))];
  if (one.worth) more.push(text("history.earns", money(one.worth)));
  more.push(one.energy ? text("history.energy", kilowattHours(one.energy.joules)) : text("history.unmeasured"));
  if (one.reason) more.push(one.reason);
  const small = item(more.join("; "), "div");
  small.className = "quiet";
  entry.append(small);
  return entry;
}

async function lookAtHistory(older) {
  const told = await ask("GET", older ? "history?before=" + oldest : "history");
  if (!older) at("history").replaceChildren();
  const first = told.done.map(done);
  at("history").append(...first);
  oldest = told.before;
  at("older").hidden = oldest === null;
  show(at("history-state"), at("history").children.length > 0 ? text("history.some") : text("history.none"));
  if (older && oldest === null && first.length > 0) {
    first[0].tabIndex = -1;
    first[0].focus();
  }
}

/// Looks again and again, while the page is seen and somebody is signed in.
function keepLooking() {
  clearTimeout(looking);
  looking = setTimeout(async () => {
    if (signedIn && document.visibilityState === "visible") await glance(look);
    keepLooking();
  }, LOOK);
}

async function lookAtAll() {
  if (!await glance(look)) return false;
  enter();
  await glance(lookAtTerms);
  await glance(lookAtEarnings);
  await glance(() => lookAtHistory(false));
  return true;
}

/// A word of the owner's, and what became of it.
async function say(path, body) {
  const told = await attempt(() => ask("POST", path, body ?? {}));
  if (!told) return false;
  showStatus(told);
  show(at("said"), told.said);
  return true;
}

function tomorrow() {
  const day = new Date();
  day.setDate(day.getDate() + 1);
  day.setHours(8, 0, 0, 0);
  return day.toISOString();
}

/// Shows what the owner would agree to.
async function read() {
  const chosen = document.querySelector("input[name=profile]:checked");
  const days = at("days").value;
  const classes = at("classes").value.split(/[\s,]+/).filter((one) => one !== "");
  const told = await ask("POST", "notice", { classes });
  wish = {
    profile: chosen.value,
    notices: Object.fromEntries(told.notices.map((one) => [one.class, one.sha256])),
    timeZone: chosen.dataset.hours ? Intl.DateTimeFormat().resolvedOptions().timeZone : null,
    days: days === "" ? null : Number(days),
  };
  const shown = told.notices.flatMap((one) => {
    const body = item(one.text, "p");
    body.className = "notice";
    body.lang = told.language;
    return [item(text("notice.one", one.class), "h4"), body];
  });
  at("notices").replaceChildren(...shown);
  at("notice").hidden = false;
  at("notice-title").focus();
}

/// Nothing is agreed to any more than it was.
function unread() {
  wish = null;
  at("notice").hidden = true;
}

async function agree() {
  const told = await ask("POST", "policy", wish);
  unread();
  at("terms-title").focus();
  showStatus(told);
  show(at("said"), text("agree.done"));
  await glance(lookAtTerms);
}

/// The car takes one try a second, whoever makes it: who was only too early tries once more without being told.
async function signIn() {
  const code = at("code").value;
  try {
    return await ask("POST", "session", { code });
  } catch (error) {
    if (error?.status !== 429) throw error;
  }
  await new Promise((done) => setTimeout(done, GAP));
  return ask("POST", "session", { code });
}

/// Saves everything that the car holds on its owner, as a file.
async function save() {
  const answer = await send("GET", "export");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = at("export").download;
  link.click();
  // The browser takes it from there in its own time.
  setTimeout(() => URL.revokeObjectURL(link.href), PATIENCE);
  show(at("said"), text("leave.saved"));
}

function listen() {
  at("sign-in").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (!await attempt(signIn)) return;
    at("code").value = "";
    if (await lookAtAll()) at("now-title").focus();
  });
  at("pause-hour").addEventListener("click", () => say("pause", { minutes: 60 }));
  at("pause-tomorrow").addEventListener("click", () => say("pause", { until: tomorrow() }));
  at("pause-resume").addEventListener("click", () => say("pause", {}));
  at("resume").addEventListener("click", () => say("resume"));
  at("older").addEventListener("click", () => attempt(() => lookAtHistory(true)));
  at("agree").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(read);
  });
  // What is changed after it was read has to be read again.
  at("agree").addEventListener("input", unread);
  at("notice-yes").addEventListener("click", () => attempt(agree));
  at("notice-no").addEventListener("click", () => {
    unread();
    at("terms-title").focus();
  });
  at("records-open").addEventListener("toggle", () => {
    if (at("records-open").open) attempt(lookAtRecords);
  });
  at("withdraw").addEventListener("click", () => sure(null));
  at("sure-no").addEventListener("click", () => at("sure").close());
  at("sure-yes").addEventListener("click", async () => {
    at("sure").close();
    const purpose = takingBack;
    if (!await say("withdraw", purpose === null ? {} : { purposes: [purpose] })) return;
    at(purpose === null ? "now-title" : "terms-title").focus();
    if (at("records-open").open) attempt(lookAtRecords);
  });
  at("sign-out").addEventListener("click", async () => {
    if (await attempt(() => ask("DELETE", "session"))) leave();
  });
  at("export").addEventListener("click", (event) => {
    event.preventDefault();
    attempt(save);
  });
  at("wrong-close").addEventListener("click", () => complain(""));
  document.addEventListener("visibilitychange", () => {
    if (signedIn && document.visibilityState === "visible") glance(look);
  });
}

async function begin() {
  texts = await (await fetch("/texts.json")).json();
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = text(element.dataset.text);
  document.title = text("title");
  listen();
  if (!await lookAtAll() && !signedIn) leave();
  keepLooking();
}

begin();
