// Draws cards and facts. Posts carry no media here, so a cover is drawn from topic, media type and id.

const SVG = "http://www.w3.org/2000/svg";
const MAX_BARS = 4;
const languages = new Intl.DisplayNames(["en"], { type: "language" });
const countries = new Intl.DisplayNames(["en"], { type: "region" });
const kinds = { image: "Photo", video: "Video", carousel: "Carousel", text: "Text" };

export function drawCard(post, now) {
  const item = document.getElementById("card").content.firstElementChild.cloneNode(true);
  const find = (name) => item.querySelector(`.${name}`);
  const title = post.topic ?? (post.topic_id === null ? "Untitled" : `Topic ${post.topic_id}`);
  find("card").setAttribute("aria-label", `${title}, by creator ${post.creator_id}`);
  find("card").dataset.post = post.post_id;
  const cover = find("cover");
  cover.setAttribute("aria-label", `Open ${title}`);
  cover.style.setProperty("--hue", String(((post.topic_id ?? 0) * 137.508) % 360));
  cover.style.setProperty("--angle", `${100 + (hash(post.post_id) % 80)}deg`);
  find("motif").append(motif(post));
  find("kind").textContent = kinds[post.media_type] ?? "Post";
  find("duration").textContent = post.media_type === "video" ? clock(post.duration_seconds) : "";
  find("title").textContent = title;
  drawMeta(find("meta"), post, now);
  find("sources").replaceChildren(...post.sources.map((source) => text("span", source.replaceAll("_", " "))));
  drawBars(find("bars"), post.value_contributions ?? {});
  drawReasons(find("reasons"), post);
  return item;
}

export function drawFacts(list, facts) {
  list.replaceChildren(
    ...facts.filter(([, value]) => value !== null && value !== "").flatMap(([name, value]) => [text("dt", name), text("dd", value)]),
  );
}

let timer = 0;
export function say(message) {
  const status = document.getElementById("status");
  status.textContent = message;
  status.classList.add("is-shown");
  clearTimeout(timer);
  timer = setTimeout(() => status.classList.remove("is-shown"), 2600);
}

function drawMeta(line, post, now) {
  const parts = [text("b", `Creator ${post.creator_id}`), text("span", age(now - Date.parse(post.created_at)))];
  if (post.language) parts.push(text("span", named(languages, post.language)));
  if (post.country) parts.push(text("span", named(countries, post.country)));
  line.replaceChildren(...parts);
}

function drawBars(box, contributions) {
  const top = Object.entries(contributions)
    .sort(([, a], [, b]) => Math.abs(b) - Math.abs(a))
    .slice(0, MAX_BARS);
  const most = Math.max(...top.map(([, value]) => Math.abs(value)), 1e-9);
  box.hidden = top.length === 0;
  box.setAttribute("aria-label", `Value by engagement: ${top.map(([head, v]) => `${head} ${v.toFixed(3)}`).join(", ")}`);
  box.replaceChildren(
    ...top.map(([head, value]) => {
      const bar = document.createElement("div");
      bar.className = value < 0 ? "bar is-negative" : "bar";
      const track = document.createElement("span");
      const fill = document.createElement("i");
      fill.style.setProperty("--share", `${(100 * Math.abs(value)) / most}%`);
      track.append(fill);
      bar.append(text("span", head.replace("_", " ")), track, text("output", signed(value)));
      return bar;
    }),
  );
}

function drawReasons(box, post) {
  const rules = document.createElement("p");
  rules.append(...(post.rules ?? []).map((rule) => {
    const chip = text("span", rule.replaceAll("_", " "));
    chip.className = "rule";
    return chip;
  }));
  box.replaceChildren(
    table("Score by stage", Object.entries(post.stage_scores ?? {}).map(([stage, score]) => [stage, score.toFixed(4)])),
    table("Predicted probability", Object.entries(post.probabilities ?? {}).map(([head, p]) => [head, percent(p)])),
    ...(rules.childElementCount ? [rules] : []),
  );
}

function table(caption, rows) {
  const whole = document.createElement("table");
  whole.append(text("caption", rows.length ? caption : `${caption}: none`));
  const body = document.createElement("tbody");
  for (const [name, value] of rows) {
    const row = document.createElement("tr");
    const head = text("th", name.replaceAll("_", " "));
    head.scope = "row";
    row.append(head, text("td", value));
    body.append(row);
  }
  whole.append(body);
  return whole;
}

// A quiet pattern per media type, placed by the post's id, so that a post always looks the same.
function motif(post) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 320 120");
  svg.setAttribute("preserveAspectRatio", "xMidYMid slice");
  let seed = hash(post.post_id);
  const random = () => (seed = (seed * 1664525 + 1013904223) >>> 0) / 2 ** 32;
  const add = (name, attributes) => {
    const shape = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries({ fill: "#fff", "fill-opacity": 0.06 + 0.12 * random(), ...attributes })) {
      shape.setAttribute(key, value);
    }
    svg.append(shape);
  };
  for (let i = 0; i < 7; i += 1) {
    const [x, y, size] = [320 * random(), 120 * random(), 14 + 46 * random()];
    if (post.media_type === "video") add("path", { d: `M${x} ${y}l${size} ${size * 0.6}l${-size} ${size * 0.6}z` });
    else if (post.media_type === "carousel") add("rect", { x, y, width: size * 1.2, height: size * 1.5, rx: 8 });
    else if (post.media_type === "text") add("rect", { x: x - 60, y, width: 60 + size * 2, height: 7, rx: 3.5 });
    else add("circle", { cx: x, cy: y, r: size * 0.8 });
  }
  return svg;
}

function text(name, content) {
  const element = document.createElement(name);
  element.textContent = String(content);
  return element;
}

function hash(words) {
  let code = 2166136261;
  for (const letter of words) code = Math.imul(code ^ letter.codePointAt(0), 16777619) >>> 0;
  return code;
}

function named(names, code) {
  try {
    return names.of(code) ?? code;
  } catch {
    return code;
  }
}

function age(ms) {
  const minutes = Math.max(0, Math.round(ms / 60000));
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 48 * 60) return `${Math.round(minutes / 60)} h ago`;
  return `${Math.round(minutes / 1440)} days ago`;
}

const clock = (s) => (s === null ? "" : `${Math.floor(s / 60)}:${String(Math.round(s % 60)).padStart(2, "0")}`);
const percent = (p) => `${(100 * p).toFixed(p < 0.01 ? 2 : 1)} %`;
const signed = (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(3)}`;
