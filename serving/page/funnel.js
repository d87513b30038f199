// The funnel of one request: what every stage kept and removed, as bars on a logarithmic scale.

const ASKED_AGAIN_MS = 150; // the explanation is written behind the reply
const MOST_TRIES = 20;

export async function explanationOf(requestId) {
  for (let attempt = 0; attempt < MOST_TRIES; attempt += 1) {
    const reply = await fetch(`/explain/${encodeURIComponent(requestId)}`);
    if (reply.ok) return reply.json();
    if (reply.status !== 404) throw new Error(`/explain answered ${reply.status}`);
    await new Promise((resolve) => setTimeout(resolve, ASKED_AGAIN_MS));
  }
  throw new Error("the explanation of this page is not held");
}

export function drawFunnel(box, explained) {
  box.replaceChildren(...explained.rankings.map((ranking) => {
    const most = Math.max(1, ...ranking.stages.flatMap((stage) => [stage.num_in, stage.num_out]));
    const list = document.createElement("ol");
    list.className = "stages";
    list.append(...ranking.stages.map((stage) => drawStage(stage, most)));
    return list;
  }));
}

function drawStage(stage, most) {
  const item = document.createElement("li");
  const bar = document.createElement("div");
  bar.className = "stage-bar";
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", `${words(stage.name)}: ${stage.num_out.toLocaleString("en")} of ${stage.num_in.toLocaleString("en")} kept`);
  for (const [kind, count] of [["is-in", stage.num_in], ["is-out", stage.num_out]]) {
    const fill = document.createElement("i");
    fill.className = kind;
    fill.style.setProperty("--share", `${(100 * Math.log1p(count)) / Math.log1p(most)}%`);
    bar.append(fill);
  }
  item.append(
    text("b", words(stage.name)), bar,
    text("span", `${stage.num_in.toLocaleString("en")} → ${stage.num_out.toLocaleString("en")}`),
    text("span", `${stage.ms.toFixed(1)} ms`),
  );
  const reasons = [
    ...Object.entries(stage.removed).sort(([, a], [, b]) => b - a).map(([reason, n]) => `${words(reason)} ${n.toLocaleString("en")}`),
    ...stage.notes,
  ];
  if (reasons.length) {
    const line = document.createElement("p");
    line.className = "removed";
    line.append(...reasons.map((reason) => text("span", reason)));
    item.append(line);
  }
  return item;
}

const words = (name) => name.replace("source.", "").replaceAll("_", " ");

function text(name, content) {
  const element = document.createElement(name);
  element.textContent = String(content);
  return element;
}
