// The feed page: shows one user's feed with its reasons and reports what the reader sees and does.
import { EventQueue } from "/static/events.js";
import { drawCard, drawFacts, say } from "/static/cards.js";
import { drawFunnel, explanationOf } from "/static/funnel.js";
import { drawVersus } from "/static/versus.js";

const PAGE_SIZE = 12;
const SEEN_SHARE = 0.5; // of a card's area in view
const SEEN_MS = 1000;

const $ = (id) => document.getElementById(id);
const events = new EventQueue();
const state = { user: null, samples: [], cursor: null, isLoading: false, generation: 0, clockSkew: 0, requestId: null };
const posts = new WeakMap(); // card -> { post, requestId, impressionId, openedAt }

async function fetchJson(path, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  const reply = await fetch(path, options);
  if (!reply.ok) throw new Error(`${path.split("?")[0]} answered ${reply.status}`);
  return reply.json();
}

async function showUser(user) {
  state.user = user;
  state.cursor = null;
  state.generation += 1;
  state.isLoading = false;
  $("user").value = user;
  $("feed").replaceChildren();
  $("end").hidden = true;
  history.replaceState(null, "", `?user=${encodeURIComponent(user)}`);
  drawReader();
  await loadPage();
  await compare();
}

async function loadPage() {
  if (state.isLoading || (state.cursor === null && $("feed").childElementCount)) return;
  state.isLoading = true;
  const generation = state.generation;
  try {
    const reply = await fetchJson("/feed", {
      user_id: state.user, limit: PAGE_SIZE, explain: true, context: { device: "web" },
      ...(state.cursor ? { cursor: state.cursor } : {}),
    });
    if (generation !== state.generation) return;
    state.cursor = reply.next_cursor;
    state.requestId = reply.request_id;
    drawServing(reply);
    const now = Date.now() + state.clockSkew;
    for (const post of reply.posts) addCard(post, reply.request_id, now);
    $("more").hidden = reply.next_cursor === null;
    $("end").hidden = reply.next_cursor !== null;
    $("end").textContent = $("feed").childElementCount ? "That is everything for now." : "No posts to show.";
  } catch (error) {
    say(`The feed could not be loaded: ${error.message}`);
    $("more").hidden = false;
  } finally {
    if (generation === state.generation) state.isLoading = false;
  }
}

function addCard(post, requestId, now) {
  const item = drawCard(post, now);
  const card = item.querySelector(".card");
  posts.set(card, { post, requestId, impressionId: null, openedAt: null });
  card.addEventListener("click", (event) => act(card, event.target.closest("button")));
  $("feed").append(item);
  seen.observe(card);
}

// An impression counts once half a card was in view for a second.
const waiting = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const { target, intersectionRatio } of entries) {
    if (intersectionRatio >= SEEN_SHARE && !waiting.has(target)) {
      waiting.set(target, setTimeout(() => logImpression(target), SEEN_MS));
    } else if (intersectionRatio < SEEN_SHARE && waiting.has(target)) {
      clearTimeout(waiting.get(target));
      waiting.delete(target);
    }
  }
}, { threshold: [0, SEEN_SHARE] });

function logImpression(card) {
  const entry = posts.get(card);
  seen.unobserve(card);
  waiting.delete(card);
  if (entry.impressionId) return entry.impressionId;
  entry.impressionId = send(card, "impression", { position: entry.post.position });
  return entry.impressionId;
}

function send(card, kind, more = {}) {
  const { post, requestId } = posts.get(card);
  return events.add({ kind, user_id: state.user, post_id: post.post_id, request_id: requestId, ...more });
}

function engage(card, kind, more = {}) {
  // Whoever acts on a post has seen it.
  send(card, kind, { impression_id: logImpression(card), ...more });
  events.flush();
}

const actions = {
  like(card) {
    const button = card.querySelector(".like");
    if (button.getAttribute("aria-pressed") === "true") return;
    button.setAttribute("aria-pressed", "true");
    button.textContent = "Liked";
    engage(card, "like");
    say("Liked");
  },
  follow(card) {
    const { post } = posts.get(card);
    const button = card.querySelector(".follow");
    const isFollowed = button.getAttribute("aria-pressed") === "true";
    for (const other of cardsOf(post.creator_id)) {
      const twin = other.querySelector(".follow");
      twin.setAttribute("aria-pressed", String(!isFollowed));
      twin.textContent = isFollowed ? "Follow" : "Following";
    }
    if (isFollowed) {
      events.add({ kind: "unfollow", user_id: state.user, creator_id: post.creator_id });
      events.flush();
    } else {
      engage(card, "follow");
    }
    say(isFollowed ? "Unfollowed" : `Following creator ${post.creator_id}`);
  },
  hide(card) {
    engage(card, "hide");
    remove([card]);
    say("Hidden; your next page leaves it out");
  },
  block(card) {
    const { post } = posts.get(card);
    engage(card, "block");
    remove(cardsOf(post.creator_id));
    say(`Blocked creator ${post.creator_id}`);
  },
  why(card) {
    const button = card.querySelector(".why");
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    card.querySelector(".reasons").hidden = isOpen;
  },
  cover(card) {
    const entry = posts.get(card);
    const isOpened = card.classList.toggle("is-opened");
    if (isOpened) {
      entry.openedAt = performance.now();
      engage(card, "click");
    } else {
      const seconds = (performance.now() - entry.openedAt) / 1000;
      if (seconds >= 10) engage(card, "long_view", { dwell_seconds: Math.round(seconds) });
    }
  },
};

function act(card, button) {
  if (!button) return;
  const name = Object.keys(actions).find((action) => button.classList.contains(action));
  if (name) actions[name](card);
}

function cardsOf(creatorId) {
  return [...$("feed").querySelectorAll(".card")].filter((card) => posts.get(card).post.creator_id === creatorId);
}

function remove(cards) {
  const next = neighbour(cards[0], 1, cards) ?? neighbour(cards[0], -1, cards);
  const hadFocus = cards.some((card) => card.contains(document.activeElement));
  for (const card of cards) card.closest("li").remove();
  if (hadFocus) (next ?? $("feed")).focus();
}

function neighbour(card, step, except = []) {
  const all = [...$("feed").querySelectorAll(".card")];
  for (let place = all.indexOf(card) + step; place >= 0 && place < all.length; place += step) {
    if (!except.includes(all[place])) return all[place];
  }
  return null;
}

const keys = { l: "like", f: "follow", h: "hide", b: "block", w: "why", Enter: "cover" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const card = document.activeElement.closest?.(".card");
  if (event.key === "j" || event.key === "k") {
    const target = card ? neighbour(card, event.key === "j" ? 1 : -1) : $("feed").querySelector(".card");
    if (target) {
      target.focus({ preventScroll: true });
      target.scrollIntoView({ block: "start", behavior: "smooth" });
    } else if (event.key === "j") {
      loadPage();
    }
    event.preventDefault();
  } else if (card && keys[event.key] && !(event.key === "Enter" && event.target !== card)) {
    actions[keys[event.key]](card);
    event.preventDefault();
  }
});

function drawReader() {
  const sample = state.samples.find((user) => user.user_id === state.user);
  drawFacts($("reader"), [
    ["User", state.user],
    ...(sample
      ? [["Language", sample.language], ["Country", sample.country], ["Engagements", sample.num_engagements],
         ["Likes", sample.topics.join(", ")]]
      : [["Known", "not one of the sample"]]),
  ]);
  for (const button of $("samples").children) {
    button.setAttribute("aria-current", String(button.value === state.user));
  }
}

function drawServing(reply) {
  drawFacts($("serving"), [
    ["Surface", reply.surface], ["Spec", reply.spec_version], ["Request", reply.request_id],
    ...Object.entries(reply.model_versions).map(([kind, id]) => [kind.replace("_", " "), id]),
  ]);
  $("funnel-open").disabled = false;
  $("degraded").hidden = reply.degraded.length === 0;
  $("degraded").textContent = `Served without: ${reply.degraded.join(", ")}`;
}

async function openFunnel() {
  try {
    drawFunnel($("funnel-stages"), await explanationOf(state.requestId));
    $("funnel").showModal();
  } catch (error) {
    say(`The funnel could not be shown: ${error.message}`);
  }
}

async function compare() {
  const surface = $("versus").value;
  document.body.classList.toggle("is-compared", surface !== "");
  $("versus-column").hidden = surface === "";
  if (!surface) return;
  const own = [...$("feed").querySelectorAll(".card")].slice(0, PAGE_SIZE).map((card) => posts.get(card).post.post_id);
  try {
    await drawVersus($("versus-column"), state.user, surface, PAGE_SIZE, own, Date.now() + state.clockSkew);
  } catch (error) {
    say(`${surface} could not be shown: ${error.message}`);
  }
}

$("funnel-open").addEventListener("click", openFunnel);
$("versus").addEventListener("change", compare);
$("chooser").addEventListener("submit", (event) => {
  event.preventDefault();
  const user = $("user").value.trim();
  if (user) showUser(user);
});
$("more").addEventListener("click", loadPage);
new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) loadPage();
}, { rootMargin: "800px" }).observe($("more"));

async function start() {
  if (matchMedia("(max-width: 820px)").matches) {
    // On a phone the feed comes first; the facts are one tap away.
    for (const details of document.querySelectorAll(".side details")) details.open = false;
  }
  const [samples, readiness] = await Promise.all([fetchJson("/users/sample"), fetchJson("/readyz")]);
  state.samples = samples;
  state.clockSkew = Date.parse(readiness.now) - Date.now();
  for (const surface of Object.keys(readiness.surfaces).slice(1)) $("versus").append(new Option(surface));
  $("versus-choice").hidden = $("versus").options.length < 2;
  for (const user of samples) {
    const option = document.createElement("option");
    option.value = user.user_id;
    option.label = [user.language, user.country, user.topics.join(", ")].filter(Boolean).join(" · ");
    $("users").append(option);
  }
  for (const user of samples.slice(0, 8)) {
    const button = document.createElement("button");
    button.type = "button";
    button.value = user.user_id;
    button.textContent = [user.user_id, user.language].filter(Boolean).join(" · ");
    button.addEventListener("click", () => showUser(user.user_id));
    $("samples").append(button);
  }
  const wanted = new URLSearchParams(location.search).get("user");
  await showUser(wanted || samples[0]?.user_id || "new-reader");
}

start().catch((error) => say(`The page could not start: ${error.message}`));
